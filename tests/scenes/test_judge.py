"""The judge: accepts what the renderer draws, rejects it under any other caption, and is not fooled
by what only comes near.
"""

import dataclasses
import inspect

import numpy as np
import pytest
from scipy import ndimage

from cv3jax.evaluation.scenes import BATCH, batches
from data_pipeline.io.errors import InputError
from data_pipeline.scenes import grammar, vision
from data_pipeline.scenes.grammar import Object, Scene, caption, parse, sample_scene
from data_pipeline.scenes.judge import DETAILS, PROPERTIES, altered, altered_rates, compare, judge
from data_pipeline.scenes.render import BACKGROUND_RGB, RGB, render
from data_pipeline.scenes.vision import see

COUNT = 300
PLAIN = Object("large", "red", None, "circle", None, "in the center", 0.5, 0.5, 0.2)


def scene(i):
    return sample_scene(
        77, i, split=grammar.SPLITS[i % 2], textured=(0.0, 0.5, 1.0)[i % 3], relational=0.3
    )


def pair(**kwargs):
    """A red circle on the left, a small blue square on the right; keywords change the left one."""
    left = dataclasses.replace(PLAIN, position="on the left", cx=0.25, **kwargs)
    return Scene(
        "white",
        "pair",
        (left, Object("small", "blue", None, "square", None, "on the right", 0.75, 0.5, 0.15)),
    )


@pytest.fixture(scope="module", params=[64, 128])
def shown(request):
    """What is seen on COUNT renders of a size, and their captions."""
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
                for a, b in zip(was["objects"], now["objects"], strict=True)
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


def test_altered_knows_what_cannot_be_told_apart():
    text = (
        "a large red circle on the left and a large red striped circle on the right, white"
        " background"
    )
    assert altered(text, "position", np.random.default_rng(0)) is None
    assert altered(text, "colour", np.random.default_rng(0)) is not None


def test_the_judge_looks_without_the_caption():
    assert list(inspect.signature(see).parameters) == ["image"]
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


def test_rejects_properties_at_the_other_place():
    """Both colours and both shapes are there, but not on one another; then both things, but at the
    other's place.
    """
    a, b = pair().objects
    crossed = Scene(
        "white",
        "pair",
        (dataclasses.replace(a, colour="blue"), dataclasses.replace(b, colour="red")),
    )
    verdict = judge(render(crossed, 64), caption(pair()))
    assert verdict["colour"]
    assert verdict["shape"]
    assert not verdict["all"]
    swapped = Scene(
        "white", "pair", (dataclasses.replace(b, cx=0.25), dataclasses.replace(a, cx=0.75))
    )
    verdict = judge(render(swapped, 64), caption(pair()))
    assert verdict["colour"]
    assert verdict["size"]
    assert not verdict["position"]
    assert not verdict["all"]


@pytest.mark.parametrize(
    ("x", "y", "right"),
    [
        (0.25, 0.5, True),
        (0.3, 0.53, True),
        (0.36, 0.5, False),
        (0.25, 0.65, False),
        (0.75, 0.5, False),
    ],
)
def test_one_thing_has_to_be_at_its_place(x, y, right):
    there = Scene("white", "one", (dataclasses.replace(PLAIN, cx=x, cy=y),))
    assert (
        judge(render(there, 64), "a large red circle on the left, white background")["position"]
        == right
    )


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize(
    ("first", "second"), [("red", "blue"), ("orange", "yellow"), ("purple", "pink")]
)
def test_a_thing_of_two_colours_has_neither(size, first, second):
    texts = [f"a large {c} circle in the center, white background" for c in (first, second)]
    images = [
        render(Scene("white", "one", (dataclasses.replace(PLAIN, colour=c),)), size)
        for c in (first, second)
    ]
    half = images[0].copy()
    half[:, size // 2 :] = images[1][:, size // 2 :]
    mixed = (images[0].astype(int) + images[1]) // 2
    for text in texts:
        assert judge(half, text)["shape"]
        assert not judge(half, text)["colour"]
    assert sum(judge(mixed.astype(np.uint8), text)["all"] for text in texts) <= 1


@pytest.mark.parametrize("size", [64, 128])
def test_a_blank_picture_or_noise_shows_nothing_that_was_asked_for(size):
    rng = np.random.default_rng(0)
    blank = np.full((size, size, 3), BACKGROUND_RGB["beige"], np.uint8)
    assert see(blank).things == ()
    noise = [rng.integers(0, 256, (size, size, 3), np.uint8) for _ in range(3)]
    smooth = [
        ndimage.gaussian_filter(n.astype(np.float64), (size / 16, size / 16, 0)) for n in noise
    ]
    smooth = [((s - s.min()) / (s.max() - s.min()) * 255).astype(np.uint8) for s in smooth]
    for seen in map(see, (blank, *noise, *smooth)):
        for i in range(20):
            verdict = compare(seen, caption(scene(i)))
            assert not verdict["all"]
            assert not verdict["shape"]
            assert not verdict["colour"]


@pytest.mark.parametrize("size", [64, 128])
def test_what_is_too_much_counts_and_specks_do_not(size):
    image, text = render(pair(), size), caption(pair())
    speck = image.copy()
    speck[-size // 16 - 4 : -size // 16 - 2, size // 2 : size // 2 + 2] = 0
    assert judge(speck, text)["all"]
    haze = image.copy()
    haze[-size // 8 :, size // 2 :] -= 15
    assert judge(haze, text)["all"]
    third = image.copy()
    third[-size // 5 : -size // 10, size // 2 : size // 2 + size // 8] = RGB["green"]
    assert not judge(third, text)["count"]
    assert not judge(third, text)["all"]


def drawn(inside, size=64):
    """White, and blue where inside(x, y): coordinates in large radii from the centre, y
    downwards.
    """
    at = ((np.arange(size * 8) + 0.5) / size / 8 - 0.5) / 0.2
    cover = (
        np.asarray(inside(at[None, :], at[:, None]), float)
        .reshape(size, 8, size, 8)
        .mean((1, 3))[..., None]
    )
    return (255 + cover * (np.array(RGB["blue"]) - 255)).round().astype(np.uint8)


def turned(inside, degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return lambda x, y: inside(x * c - y * s, x * s + y * c)


def cross(x, y):
    return (np.maximum(np.abs(x), np.abs(y)) < 1) & (np.minimum(np.abs(x), np.abs(y)) < 0.33)


def square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) < 0.84


def ring(x, y):
    return np.abs(np.hypot(x, y) - 0.77) < 0.23


@pytest.mark.parametrize(
    ("shape", "inside"),
    [
        ("square", square),
        ("cross", cross),
        ("ring", ring),
        ("circle", lambda x, y: np.hypot(x, y) < 1),
        # soft corners
        (
            "square",
            lambda x, y: (
                np.hypot(np.maximum(np.abs(x) - 0.64, 0), np.maximum(np.abs(y) - 0.64, 0)) < 0.2
            ),
        ),
        (None, turned(square, 45)),
        (None, turned(square, 20)),
        (None, turned(cross, 20)),
        (None, turned(cross, 45)),
        (None, lambda x, y: cross(x, y) & (y < 0.33)),  # an arm is missing
        (None, lambda x, y: ring(x, y) & ((x < 0) | (np.abs(y) > 0.4))),  # a piece is
        (None, lambda x, y: (np.hypot(x, y) < 1) & (y < 0)),
        (None, lambda x, y: np.hypot(x / 1.2, y * 1.2) < 0.9),
        (None, lambda x, y: (np.abs(x) < 1) & (np.abs(y) < 0.7)),
        (
            None,
            lambda x, y: np.hypot(x, y) < 0.9 + 0.2 * np.cos(3 * np.arctan2(y, x) + 1),
        ),  # a blob
    ],
)
def test_shapes_have_to_be_clear(shape, inside):
    (thing,) = see(drawn(inside)).things
    assert thing.shape == shape
    assert thing.colour == "blue"


def test_things_that_touch_are_two():
    a, b = (
        dataclasses.replace(o, cx=x)
        for o, x in zip(pair(shape="ring").objects, (0.34, 0.668), strict=True)
    )
    scene = Scene(
        "white",
        "relation",
        (dataclasses.replace(a, position="left"), dataclasses.replace(b, position="right")),
    )
    image = ndimage.gaussian_filter(render(scene, 64).astype(np.float64), (0.7, 0.7, 0)).astype(
        np.uint8
    )
    assert judge(image, caption(scene))["all"]


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
