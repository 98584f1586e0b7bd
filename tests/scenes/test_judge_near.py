"""Test that the judge rejects near misses.

They are other places, colours and shapes, specks, touching things, and pictures without a scene.
"""

import dataclasses

import numpy as np
import pytest
from drawn_scenes import PLAIN, pair, scene, square
from scipy import ndimage

from data_pipeline.scenes.grammar import Scene, caption
from data_pipeline.scenes.judge import compare, judge
from data_pipeline.scenes.render import BACKGROUND_RGB, RGB, render
from data_pipeline.scenes.vision import see


def test_rejects_properties_at_the_other_place():
    """Both colours and both shapes are there, but in the wrong combination.

    Then both things are right, but have exchanged places.
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
    """Return a white picture that is blue where inside(x, y).

    Coordinates are in large radii from the centre, y downwards.
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


def test_things_above_one_another_are_not_beside_one_another():
    a, b = pair().objects
    places = ((a, "left", 0.47, 0.25), (b, "right", 0.53, 0.75))
    objects = tuple(dataclasses.replace(o, position=word, cx=x, cy=y) for o, word, x, y in places)
    scene = Scene("white", "relation", objects)
    verdict = judge(render(scene, 64), caption(scene))
    assert verdict["count"]
    assert not verdict["position"]
