"""Test what the API makes of prompts, seeds, sizes, settings and pictures, and what it refuses."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cv3jax.api import arguments
from cv3jax.sampling.inputs import LAST_SEED


def test_a_string_is_one_prompt():
    assert arguments.prompts_of("a red star") == ["a red star"]
    assert arguments.prompts_of(("a", "b")) == ["a", "b"]
    assert arguments.prompts_of(np.array("a")) == ["a"]


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        (None, "None: give a string, or a list of strings"),
        (5, "5: give a string"),
        (np.array(5), "5: give a string"),
        (b"a star", "b'a star': give a string"),
        ({"prompt": "a star"}, "{'prompt': 'a star'}: give a string"),
        (["a", None], "None: give a string"),
        ([1], "1: give a string"),
        ("  ", "'  ': must hold 1..4096 characters that are not all blank"),
        ("", "'': must hold"),
        ("x" * 10_000, f"'{'x' * 40}': has 10,000 characters; give at most 4,096"),
    ],
)
def test_other_prompts_are_refused(prompt, line):
    with pytest.raises(ValueError, match=f"^prompt {re.escape(line)}"):
        arguments.prompts_of(prompt)


def test_no_prompt_is_refused_and_one_is_not_several():
    with pytest.raises(ValueError, match=r"^prompt: give a string, or a list of at least one$"):
        arguments.prompts_of([])
    with pytest.raises(ValueError, match=r"^prompt \['a'\]: give one string$"):
        arguments.prompt_of(["a"])


@pytest.mark.parametrize(
    ("seed", "prompts", "num", "seeds"),
    [
        (7, 1, 1, [7]),
        (7, 2, 1, [7, 7]),
        (7, 2, 3, [7, 8, 9, 7, 8, 9]),
        (np.int64(7), 1, 2, [7, 8]),
        (np.array(7), 1, 2, [7, 8]),
        ([1, 5], 2, 2, [1, 2, 5, 6]),
        (np.array([1, 5], np.uint8), 2, 1, [1, 5]),
        (jnp.int32(7), 1, 2, [7, 8]),
        (jnp.array([1, 5]), 2, 1, [1, 5]),
        ([4, 3, 2, 1], 2, 2, [4, 3, 2, 1]),
        (range(3), 1, 3, [0, 1, 2]),
        (np.uint32(LAST_SEED - 1), 1, 2, [LAST_SEED - 1, LAST_SEED]),
    ],
)
def test_seeds(seed, prompts, num, seeds):
    found = arguments.seeds_of(seed, prompts, num)
    assert found == seeds
    assert {type(one) for one in found} == {int}


def test_no_seed_is_a_random_one_that_every_prompt_shares():
    first, second = (arguments.seeds_of(None, 2, 2) for _ in range(2))
    assert first[:2] == first[2:] == [first[0], first[0] + 1]
    assert first != second


@pytest.mark.parametrize("seed", [-1, [0, -1], True, [True, 1], 1.5, "7", b"7", LAST_SEED + 1, {}])
def test_seeds_that_are_none_are_refused(seed):
    with pytest.raises(ValueError, match=r"^(seed .*give a whole|0 seeds .*give)"):
        arguments.seeds_of(seed, 2 if isinstance(seed, list) else 1, 1)


def test_another_number_of_seeds_says_which_are_right():
    with pytest.raises(ValueError, match=r"^3 seeds for 2 prompts and 2 pictures .* 1 or 2 or 4$"):
        arguments.seeds_of([1, 2, 3], 2, 2)
    with pytest.raises(ValueError, match=f"at most {LAST_SEED - 1}$"):
        arguments.seeds_of(LAST_SEED, 1, 2)


@pytest.mark.parametrize("num", [0, -1, 1.0, True, None, 10_001])
def test_wrong_numbers_of_pictures_are_refused(num):
    with pytest.raises(ValueError, match=r"^num .* 1\.\.10000$"):
        arguments.seeds_of(0, 1, num)


def test_sizes():
    assert arguments.size_of(None) is None
    assert arguments.size_of(np.int32(64)) == (64, 64)
    assert arguments.size_of((96, 64)) == arguments.size_of(np.array([96, 64])) == (96, 64)


@pytest.mark.parametrize("size", [0, -8, 1.5, True, "64", "768x512", (1, 2, 3), (64, None), 20_000])
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises(ValueError, match=r"^size .*give one side or \(height, width\)"):
        arguments.size_of(size)


def test_settings_are_of_both_stages_or_of_each():
    base, relay = arguments.settings_of((4, 1), 7, None, 64)
    assert (base.steps, relay.steps) == (4, 1)
    assert (base.guidance, relay.guidance) == (7.0, 7.0)
    assert base.eta is relay.eta is None
    assert base.tile == relay.tile == 64
    assert arguments.settings_of(np.array([4, 1]), None, np.float32(0.5), None)[1].eta == 0.5
    assert arguments.settings_of((4, None), None, None, None)[1].steps is None


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ((0, None, None, None), "steps 0: give one whole number, or two"),
        ((True, None, None, None), "steps True: give"),
        ((4.0, None, None, None), r"steps 4\.0: give"),
        (("4", None, None, None), "steps '4': give"),
        (((1, 2, 3), None, None, None), r"steps \(1, 2, 3\): give"),
        (([[4, 1], 2], None, None, None), r"steps \[\[4, 1\], 2\]: give one whole number"),
        ((None, -0.1, None, None), r"guidance -0\.1: give one number, .* in 0\.\.100$"),
        ((None, float("nan"), None, None), "guidance nan: give"),
        ((None, True, None, None), "guidance True: give"),
        ((None, None, 1.5, None), r"eta 1\.5: give .* in 0\.\.1$"),
        ((None, None, None, 8), r"tile 8: give 16\.\.16384 pixels"),
        ((None, None, None, "64"), "tile '64': give"),
        ((None, None, None, True), "tile True: give"),
    ],
)
def test_settings_that_no_stage_takes_are_refused(given, line):
    with pytest.raises(ValueError, match=f"^{line}"):
        arguments.settings_of(*given)


def test_one_stage_takes_single_values():
    assert arguments.settings_of_one(4, jnp.float32(7.5), None).guidance == 7.5
    with pytest.raises(ValueError, match=r"^steps \(4, 1\): give one number$"):
        arguments.settings_of_one((4, 1), None, None)


def test_pictures_of_all_kinds_are_the_same_pixels():
    whole = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    pixels = arguments.pixels_of(whole)
    assert pixels.shape == (2, 4, 6, 3)
    assert (pixels.min() >= -1, pixels.max() <= 1) == (True, True)
    assert arguments.pixels_of(np.array([[[0, 255, 51]]], np.uint8)).ravel().tolist() == (
        pytest.approx([-1, 1, -0.6])
    )
    pictures = [Image.fromarray(one) for one in whole]
    for same in (pictures, [one.convert("RGBA") for one in pictures], pixels, pixels.astype(float)):
        assert np.array_equal(arguments.pixels_of(same), pixels)
    assert np.array_equal(arguments.pixels_of(pictures[0]), pixels[:1])
    assert np.array_equal(arguments.pixels_of(whole[0]), pixels[:1])


def test_pil_images_are_read_as_files_are():
    grey = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    pixels = arguments.pixels_of(Image.fromarray(grey))
    assert np.round((pixels[0, ..., 0] + 1) * 127.5).tolist() == [[0, 100], [200, 255]]
    assert np.all(arguments.pixels_of(Image.new("RGBA", (4, 4), (0, 0, 0, 0))) == 1)  # on white
    turned = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 2, 3))
    turned.getexif()[274] = 6
    assert arguments.pixels_of(turned).shape == (1, 2, 4, 3)


@pytest.mark.parametrize(
    ("images", "line"),
    [
        (np.full((4, 4, 3), 200.0), r"images in 200\.\.200: floats are in -1\.\.1; give uint8"),
        (np.full((4, 4, 3), np.nan), r"images in nan\.\.nan: floats"),
        (np.zeros((4, 4, 3), np.int32), "images of int32: give uint8, or floats"),
        (np.zeros((4, 4), np.uint8), r"images of the shape \[4, 4\]: give PIL images"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"images of the shape \[0, 4, 4, 3\]"),
        ([], "images: give at least one, all of one size"),
        ([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 8))], "images: give at least one"),
        ("picture.png", r"images of the shape \[\]: give PIL images"),
    ],
)
def test_what_is_no_picture_is_refused(images, line):
    with pytest.raises(ValueError, match=f"^{line}") as raised:
        arguments.pixels_of(images)
    assert not re.search("\n", str(raised.value))
