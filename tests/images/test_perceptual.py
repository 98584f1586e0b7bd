"""Test perceptual hashes and their confirmation, on photographs and on small differences."""

import dataclasses
import io
from pathlib import Path

import imagehash
import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

from data_pipeline.images.perceptual_hash import (
    BITS,
    Hash,
    band_count,
    band_keys,
    close_pairs,
    look,
    phash,
    same_picture,
)
from data_pipeline.scenes.grammar import COLOURS, sample_scene
from data_pipeline.scenes.render import render

NAMES = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
)


@pytest.fixture(scope="module")
def photographs():
    folder = Path(skimage.__file__).parent / "data"
    found = {
        name: Image.open(folder / name).convert("RGB") for name in NAMES if (folder / name).exists()
    }
    assert len(found) >= 5
    return {
        **found,
        **{
            Path(n).name: Image.fromarray(i)
            for n, i in zip(
                load_sample_images().filenames, load_sample_images().images, strict=True
            )
        },
    }


def copied(image, rng, crop=0.03):
    """Return a copy, cut by up to `crop` of each side, resized 0.5 to 2 times, as JPEG 50 to 95."""
    across, down = rng.uniform(0, crop, 2)
    left, top = across * rng.random(), down * rng.random()
    w, h = image.size
    image = image.crop(
        [round(x) for x in (left * w, top * h, (1 - across + left) * w, (1 - down + top) * h)]
    )
    scale = rng.uniform(0.5, 2)
    out = io.BytesIO()
    image.resize([round(side * scale) for side in image.size]).save(
        out, "JPEG", quality=int(rng.integers(50, 96))
    )
    return Image.open(out).convert("RGB")


def test_the_bits_are_imagehashs(photographs):
    for name, image in photographs.items():
        assert f"{phash(image).bits:016x}" == str(imagehash.phash(image)), name


def test_copies_of_photographs_meet_and_are_confirmed(photographs):
    rng = np.random.default_rng(0)
    met = same = total = 0
    for image in photographs.values():
        for _ in range(6):
            # parts of photographs, so that not all are of one shape
            w, h = image.size
            part = image.crop((0, 0, int(w * rng.uniform(0.6, 1)), int(h * rng.uniform(0.6, 1))))
            part.thumbnail((600, 600))
            copy = copied(part, rng)
            a, b = phash(part), phash(copy)
            met += (
                bool(set(band_keys(a, 4)) & set(band_keys(b, 4)))
                and (a.bits ^ b.bits).bit_count() <= 12
            )
            same += same_picture(look(copy), look(part))
            total += 1
    assert met >= 0.95 * total
    assert same >= 0.98 * total


def test_other_photographs_are_other_pictures(photographs):
    looks = [look(image) for image in photographs.values()]
    for i, a in enumerate(looks):
        assert same_picture(a, a)
        # two of them are a stereo pair
        assert not any(same_picture(a, b) for j, b in enumerate(looks) if i != j)


def test_a_small_object_of_another_colour_is_another_picture():
    for index in range(8):
        scene = sample_scene(0, index, split="train", textured=0, two=1, relational=0)
        objects = list(scene.objects)
        other = next(
            c for c in COLOURS if c not in {o.colour for o in objects} and c != scene.background
        )
        changed = dataclasses.replace(
            scene, objects=(dataclasses.replace(objects[0], colour=other), *objects[1:])
        )
        a, b = (Image.fromarray(render(each, 128)) for each in (scene, changed))
        assert not same_picture(look(a), look(b))


def test_another_text_in_the_same_place_is_another_picture(photographs):
    rng, font = np.random.default_rng(0), ImageFont.load_default(44)
    for image in photographs.values():
        pair = []
        for _ in range(2):
            written = image.resize((480, 400))
            text = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUVXYZ"), 7))
            ImageDraw.Draw(written).text(
                (240, 300),
                text,
                anchor="mm",
                font=font,
                fill="white",
                stroke_width=2,
                stroke_fill="black",
            )
            pair.append(written)
        assert not same_picture(*map(look, pair))
        assert same_picture(look(pair[0]), look(copied(pair[0], rng)))


def test_pictures_of_low_contrast_have_different_hashes():
    rng = np.random.default_rng(0)
    fields = [rng.normal(128, 4, (6, 6, 3)).clip(0, 255).astype(np.uint8) for _ in range(6)]
    pale = [look(Image.fromarray(f).resize((256, 256), Image.Resampling.BICUBIC)) for f in fields]
    assert not any(same_picture(a, b) for i, a in enumerate(pale) for b in pale[:i])


@given(
    st.integers(0, 2**BITS - 1), st.permutations(range(BITS)), st.sampled_from([2, 3, 4]), st.data()
)
@settings(max_examples=50, deadline=None)
def test_bands_meet_where_a_weak_bit_flipped(bits, order, bands, data):
    a = Hash(bits, bytes(order[:24]))
    assert len(set(band_keys(a, bands))) <= 5 * bands
    for key in band_keys(a, bands):
        assert 0 <= key < bands << (BITS // bands)
    flipped = Hash(
        bits ^ 1 << (BITS - 1 - data.draw(st.sampled_from(order[:4]))), bytes(order[:24])
    )
    # one flip leaves all bands but one as they are, and that one is probed
    ours, theirs = set(band_keys(a, bands)), set(band_keys(flipped, bands))
    width = BITS // bands
    if bands * width == BITS:
        assert {key >> width for key in ours & theirs} == set(range(bands))


@given(st.lists(st.integers(0, 2**BITS - 1), min_size=1, max_size=40), st.integers(0, 30))
@settings(max_examples=50, deadline=None)
def test_close_pairs_are_all_within_the_radius(values, radius):
    for most in (3, len(values)):
        found = {
            tuple(pair) for pair in close_pairs(np.array(values, np.uint64), radius, most).tolist()
        }
        close = [
            [j for j in range(i) if (values[i] ^ values[j]).bit_count() <= radius]
            for i in range(len(values))
        ]
        assert found == {(i, j) for i, earlier in enumerate(close) for j in earlier[:most]}


def test_more_records_get_longer_bands():
    counts = [
        band_count(n)
        for n in (1, 20_000, 4_000_000, 5_000_000, 100_000_000, 200_000_000, 2_000_000_000)
    ]
    assert counts == [4, 4, 4, 3, 3, 2, 2]
