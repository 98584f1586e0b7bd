"""Test that the judge accepts what the renderer draws and rejects it under other captions."""

import inspect

import numpy as np
import pytest
from drawn_scenes import pair, scene
from scipy import ndimage

from cv3jax.evaluation.scenes import BATCH, batches
from data_pipeline.io.errors import InputError
from data_pipeline.scenes import vision
from data_pipeline.scenes.grammar import caption, parse
from data_pipeline.scenes.judge import DETAILS, PROPERTIES, altered, altered_rates, compare, judge
from data_pipeline.scenes.render import render
from data_pipeline.scenes.vision import see

COUNT = 300


@pytest.fixture(scope="module", params=[64, 128])
def shown(request):
    """Return what the judge sees on COUNT renders of a size, and their captions."""
    return [(see(render(scene(i), request.param)), caption(scene(i))) for i in range(COUNT)]


def test_accepts_what_the_renderer_draws(shown):
    verdicts = [compare(seen, text) for seen, text in shown]
    assert set(verdicts[0]) == {*PROPERTIES, "all"} | ({"detail"} if shown[0][0].closely else set())
    for key in verdicts[0]:
        assert np.mean([v[key] for v in verdicts]) >= 0.99, key


def test_rejects_captions_altered_in_one_property(shown):
    for number, key in enumerate((*PROPERTIES, *(DETAILS if shown[0][0].closely else ()))):
        said = []
        for i, (seen, text) in enumerate(shown):
            other = altered(text, key, np.random.default_rng([number, i]))
            verdict = compare(seen, other)
            said.append(not verdict["detail" if key in DETAILS else key])
            assert key in DETAILS or not (said[-1] and verdict["all"])
        assert np.mean(said) >= 0.99, key


def test_altered_rates_are_one_for_real_pictures():
    images, captions = zip(
        *[(render(scene(i), 64), caption(scene(i))) for i in range(8)], strict=True
    )
    assert altered_rates(images, captions, 0) == dict.fromkeys(PROPERTIES, 1.0)
    assert set(altered_rates([render(pair(), 128)], [caption(pair())], 0)) == {
        *PROPERTIES,
        *DETAILS,
    }


def test_altered_changes_that_property_alone():
    for i in range(200):
        text = caption(scene(i))
        was = parse(text)
        for key in (*PROPERTIES, *DETAILS):
            now = parse(altered(text, key, np.random.default_rng(i)))
            assert now["background"] not in {o["outline"] for o in now["objects"]}
            differ = {
                k
                for a, b in zip(was["objects"], now["objects"], strict=False)
                for k in a
                if a[k] != b[k]
            }
            if key == "background":
                assert now["background"] != was["background"]
                assert not differ
            elif key == "count":
                assert len(now["objects"]) == 3 - len(was["objects"])
            elif key == "position" and len(was["objects"]) == 2:
                nouns = [
                    [{k: v for k, v in o.items() if k != "position"} for o in said["objects"]]
                    for said in (was, now)
                ]
                assert nouns[0] == nouns[1][::-1] != nouns[1]
            else:
                assert differ == {key}
                assert now["background"] == was["background"]


def test_altered_knows_which_values_are_indistinguishable():
    text = (
        "a large red circle on the left and a large red striped circle on the right, white"
        " background"
    )
    assert altered(text, "position", np.random.default_rng(0)) is None
    assert altered(text, "colour", np.random.default_rng(0)) is not None


def test_the_judge_looks_without_the_caption():
    # and which colours there are beside those of all scenes
    assert list(inspect.signature(see).parameters) == ["image", "new"]
    assert "parse" not in inspect.getsource(vision)
    image = render(pair(), 128)
    before = image.copy()
    assert see(image) == see(image)
    assert np.array_equal(image, before)


def test_sees_what_is_there():
    seen = see(render(pair(texture="striped", outline="black", shape="star"), 128))
    left, right = seen.things
    assert seen.background == "white"
    assert (left.colour, left.shape, left.size, left.texture, left.outline) == (
        "red",
        "star",
        "large",
        "striped",
        "black",
    )
    assert (right.colour, right.shape, right.size, right.texture, right.outline) == (
        "blue",
        "square",
        "small",
        None,
        None,
    )
    assert (left.x, left.y, left.radius) == pytest.approx((0.25, 0.5, 0.2), abs=0.01)


@pytest.mark.parametrize("size", [64, 128])
def test_still_accepts_soft_edges_and_a_cast(size):
    blurred, cast = [], []
    for i in range(40):
        image, text = render(scene(i), size).astype(np.float64), caption(scene(i))
        blurred.append(
            judge(ndimage.gaussian_filter(image, (0.7, 0.7, 0)).round().astype(np.uint8), text)
        )
        cast.append(
            judge(np.clip(image * (0.95, 1.02, 0.93) + (6, -4, 5), 0, 255).astype(np.uint8), text)
        )
    for verdicts in (blurred, cast):
        for key in verdicts[0]:
            assert np.mean([v[key] for v in verdicts]) >= 0.95, key


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((64, 64, 3), np.float32), "float32"),
        (np.zeros((64, 64), np.uint8), r"\[64, 64\]"),
        ([[0]], "list"),
        (np.zeros((64, 128, 3), np.uint8), "128×64"),
        (np.zeros((32, 32, 3), np.uint8), "32×32"),
        (np.zeros((192, 192, 3), np.uint8), "192"),
    ],
    ids=str,
)
def test_refuses_what_is_no_picture(image, text):
    with pytest.raises(InputError, match=text):
        judge(image, caption(pair()))


def test_refuses_other_captions_and_properties():
    image = render(pair(), 64)
    with pytest.raises(InputError, match="not a caption"):
        judge(image, "a photo of a cat")
    with pytest.raises(InputError, match="no property 'mood'"):
        altered(caption(pair()), "mood", np.random.default_rng(0))
    for images, captions in (([], []), ([image], [])):
        with pytest.raises(InputError, match="one caption per image"):
            altered_rates(images, captions, 0)


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, 2 * BATCH + 3])
def test_batches_of_one_width_hold_every_row_once_before_the_filling(count):
    rows = batches(count)
    assert rows.shape[1] == BATCH
    assert list(rows.ravel()[:count]) == list(range(count))
    assert set(rows.ravel()[count:]) <= {count - 1}
    assert rows.size - count < BATCH
