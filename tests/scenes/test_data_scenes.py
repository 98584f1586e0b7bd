"""Test scenes: pure functions of the seed, captions that parse, and pixels that match them."""

import collections
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipeline.io.errors import InputError
from data_pipeline.records.records import open_records
from data_pipeline.scenes import grammar
from data_pipeline.scenes.dataset import SceneSettings, build, scene_of
from data_pipeline.scenes.grammar import (
    Object,
    Scene,
    caption,
    parse,
    properties,
    sample_scene,
    vocabulary,
)
from data_pipeline.scenes.render import BACKGROUND_RGB, OUTLINE_RGB, OUTLINE_WIDTH, RGB, render

PLAIN = Object("large", "red", None, "circle", None, "in the center", 0.5, 0.5, 0.2)


def one(**kwargs):
    background = kwargs.pop("background", "white")
    return Scene(background, "one", (dataclasses.replace(PLAIN, **kwargs),))


def halved(pixels):
    h, w, _ = pixels.shape
    return pixels.reshape(h // 2, 2, w // 2, 2, 3).astype(np.float64).mean((1, 3))


def test_the_same_arguments_give_the_same_scene_and_pixels():
    assert (
        caption(sample_scene(0, 0))
        == "a small blue circle on the left and a large yellow triangle on the right, beige"
        " background"
    )
    for i in range(20):
        assert sample_scene(3, i) == sample_scene(3, i)
        assert np.array_equal(render(sample_scene(3, i), 64), render(sample_scene(3, i), 64))
    ways = {
        sample_scene(0, 5),
        sample_scene(1, 5),
        sample_scene(0, 6),
        sample_scene(0, 5, split="heldout"),
    }
    assert len(ways) == 4


def test_held_out_pairs_never_train_and_are_in_every_heldout_scene():
    train, held = set(), set()
    for i in range(4000):
        train |= {(o.colour, o.shape) for o in sample_scene(7, i).objects}
        pairs = {(o.colour, o.shape) for o in sample_scene(7, i, split="heldout").objects}
        assert pairs & grammar.HELD_OUT
        held |= pairs & grammar.HELD_OUT
    assert not train & grammar.HELD_OUT
    assert held == grammar.HELD_OUT
    assert len(train) == 48 - 8
    assert {c for c, _ in train} == set(grammar.COLOURS)
    assert {s for _, s in train} == set(grammar.SHAPES)


def test_what_is_asked_for_comes_in_the_shares_asked_for():
    sampled = [sample_scene(0, i, textured=0.4, two=0.7, relational=0.3) for i in range(4000)]
    objects = [o for s in sampled for o in s.objects]
    layouts = collections.Counter(s.layout for s in sampled)
    assert layouts["one"] / 4000 == pytest.approx(0.3, abs=0.03)
    assert layouts["relation"] / (4000 - layouts["one"]) == pytest.approx(0.3, abs=0.03)
    heights = collections.Counter(
        round(s.objects[0].cy, 1) for s in sampled if s.layout == "relation"
    )
    assert set(heights) == {0.3, 0.5, 0.7}
    assert min(heights.values()) > 0.28 * layouts["relation"]
    assert np.mean([bool(o.texture or o.outline) for o in objects]) == pytest.approx(0.4, abs=0.03)
    for field, count in (("colour", 8), ("shape", 6), ("size", 2)):
        shares = collections.Counter(getattr(o, field) for o in objects)
        assert len(shares) == count
        assert min(shares.values()) > 0.7 * len(objects) / count
    plain = [sample_scene(0, i, textured=0, two=0) for i in range(200)]
    assert not any(w in caption(s) for s in plain for w in ("striped", "dotted", "outline"))
    assert {s.layout for s in plain} == {"one"}


@given(
    st.integers(0, 2**40), st.integers(0, 2**40), st.sampled_from(grammar.SPLITS), st.floats(0, 1)
)
@settings(max_examples=200, deadline=None)
def test_parse_is_the_inverse_of_caption(seed, index, split, share):
    scene = sample_scene(seed, index, split=split, textured=share, two=share, relational=share)
    text = caption(scene)
    assert parse(text) == properties(scene)
    assert set(text.replace(",", "").split()) <= set(vocabulary())
    if len(scene.objects) == 2:  # geometry says what the words say
        left, right = scene.objects
        rows = grammar.RELATION_ROWS if scene.layout == "relation" else (0.5,)
        row = min(rows, key=lambda y: abs(y - left.cy))
        for o, column in ((left, 0.25), (right, 0.75)):
            assert max(abs(o.cx - column), abs(o.cy - row)) <= 0.015
        assert (left.colour, left.shape) != (right.colour, right.shape)
    for o in scene.objects:
        assert grammar.SIZES[o.size][0] <= o.radius <= grammar.SIZES[o.size][1]
        assert o.outline != scene.background
        if o.position in grammar.ONE_POSITIONS and scene.layout == "one":
            x, y = grammar.ONE_POSITIONS[o.position]
            assert abs(o.cx - x) + abs(o.cy - y) <= 0.04


def test_parse_refuses_foreign_text():
    good = "a large red circle in the center, white background"
    parse(good)
    for text in (
        "",
        "a photo of a cat",
        good + ".",
        good.replace("red", "mauve"),
        "  " + good,
        good.upper(),
        good.replace(",", ""),
    ):
        with pytest.raises(InputError, match="not a caption"):
            parse(text)


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_objects_neither_overlap_nor_leave_the_image(index):
    scene = sample_scene(11, index, two=0.9, relational=0.5)
    size = 96
    masks = []
    for o in scene.objects:  # drawn alone: outline and fill differ from the background
        alone = render(dataclasses.replace(scene, objects=(o,)), size).astype(int)
        masks.append(np.abs(alone - BACKGROUND_RGB[scene.background]).max(-1) > 60)
        rim = np.concatenate([masks[-1][0], masks[-1][-1], masks[-1][:, 0], masks[-1][:, -1]])
        assert not rim.any()
    if len(masks) == 2:
        assert not (masks[0] & masks[1]).any()


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_the_same_picture_at_every_resolution(index):
    scene = sample_scene(5, index, textured=0.7)
    difference = np.abs(halved(render(scene, 128)) - render(scene, 64))
    assert difference.mean() < 1.0  # of 255
    # hard edges without anti-aliasing would differ by a whole step, 100 to 255
    assert np.quantile(difference, 0.999) < 48


def test_edges_are_anti_aliased():
    pixels = render(one(colour="red", background="black"), 128)[..., 0].astype(int)
    edge = (pixels > 15) & (pixels < RGB["red"][0] - 15)
    circumference = 2 * np.pi * 0.2 * 128
    assert 0.5 * circumference < edge.sum() < 2.5 * circumference
    area = pixels.sum() / RGB["red"][0]
    assert area == pytest.approx(np.pi * (0.2 * 128) ** 2, rel=0.002)  # no bias either


@pytest.mark.parametrize("shape", grammar.SHAPES)
@pytest.mark.parametrize("colour", grammar.COLOURS)
def test_colours_and_shapes_are_where_the_scene_says(colour, shape):
    scene = one(colour=colour, shape=shape, cx=0.4, cy=0.55)
    pixels = render(scene, 128)
    x = 0.4 + (0.77 * 0.2 if shape == "ring" else 0)  # a ring is hollow
    assert tuple(pixels[round(0.55 * 128), round(x * 128)]) == RGB[colour]
    if shape == "ring":
        assert tuple(pixels[round(0.55 * 128), round(0.4 * 128)]) == BACKGROUND_RGB["white"]
    assert tuple(pixels[2, 2]) == BACKGROUND_RGB["white"]
    off = np.abs(pixels.astype(int) - 255).sum(-1) > 30
    ys, xs = np.nonzero(off)
    assert (xs.min() + xs.max() + 1) / 2 == pytest.approx(0.4 * 128, abs=1.5)
    assert 0.3 * 128 < xs.max() - xs.min() < 0.45 * 128
    assert ys.min() < 0.55 * 128 < ys.max()


def test_shapes_and_colours_are_well_separated():
    areas = {}
    for a in grammar.SHAPES:
        mask_a = render(one(shape=a, colour="blue"), 128)[..., 0] < 128
        areas[a] = mask_a.sum()
        for b in grammar.SHAPES:
            mask_b = render(one(shape=b, colour="blue"), 128)[..., 0] < 128
            assert a == b or (mask_a ^ mask_b).sum() > 0.15 * (mask_a | mask_b).sum()
    assert max(areas.values()) < 3 * min(areas.values())
    colours = [*RGB.values(), *BACKGROUND_RGB.values()]
    assert (
        min(np.linalg.norm(np.subtract(a, b)) for i, a in enumerate(colours) for b in colours[:i])
        > 60
    )


@pytest.mark.parametrize("texture", grammar.TEXTURES)
def test_textures_show_at_128_and_are_gone_at_64(texture):
    at = slice(48, 80)  # inside the square
    fine = render(one(shape="square", texture=texture), 128)[at, at, 0].astype(float)
    assert fine.std() > 25
    assert fine.max() > 0.95 * RGB["red"][0]
    spectrum = np.abs(np.fft.fft2(fine - fine.mean()))
    # 32 pixels / period 4
    assert np.unravel_index(spectrum.argmax(), spectrum.shape)[0] in (8, 24, 0)
    pixels = render(one(shape="square", texture=texture), 128)
    for method in (
        Image.Resampling.BOX,
        Image.Resampling.BILINEAR,
        Image.Resampling.LANCZOS,
        Image.Resampling.BICUBIC,
    ):
        coarse = np.asarray(Image.fromarray(pixels).resize((64, 64), method))[
            26:38, 26:38, 0
        ].astype(float)
        assert coarse.std() < 1.0  # rounding
        # so the tone does not tell stripes from dots
        assert coarse.mean() == pytest.approx(0.8 * RGB["red"][0], abs=2)
    assert (
        render(one(shape="square", texture=texture), 64)[26:38, 26:38, 0].astype(float).std() < 1.0
    )


def test_stripes_and_dots_differ():
    striped, dotted = (
        render(one(shape="square", texture=t), 128)[48:80, 48:80, 0].astype(float)
        for t in grammar.TEXTURES
    )
    assert striped.std(1).max() < 1  # constant along a stripe
    assert dotted.std(1).max() > 25


@pytest.mark.parametrize("outline", grammar.OUTLINES)
@pytest.mark.parametrize("shape", grammar.SHAPES)
def test_outlines_are_thin_and_outside(shape, outline):
    with_outline = render(one(shape=shape, outline=outline, background="grey"), 256).astype(int)
    without = render(one(shape=shape, background="grey"), 256).astype(int)
    line = np.abs(with_outline - OUTLINE_RGB[outline]).max(-1) < 40
    assert line.sum() > 150
    fill = np.abs(without - RGB["red"]).max(-1) < 20
    assert not (line & fill).any()
    row = with_outline[128] if shape != "star" else with_outline[round(256 * (0.5 - 0.05))]
    first = np.nonzero(np.abs(row - OUTLINE_RGB[outline]).max(-1) < 40)[0]
    run = np.split(first, np.nonzero(np.diff(first) > 1)[0] + 1)[0]
    slanted = shape in ("triangle", "star")  # whose edges a row cuts obliquely
    assert len(run) == pytest.approx(OUTLINE_WIDTH * 256, abs=4 if slanted else 1.5)


def test_build_writes_records_a_judge_can_use(tmp_path):
    assert build(tmp_path / "d", SceneSettings(12, 5, "heldout", size=32), shards=3) == 12
    records = list(open_records(tmp_path / "d"))
    assert {r["key"] for r in records} == {f"heldout-5-{i:07d}" for i in range(12)}
    for r in records:
        index = json.loads(r["scores"])["index"]
        scene = sample_scene(5, index, split="heldout")
        assert scene_of(r["scores"]) == scene
        assert r["caption"] == caption(scene)
        assert (r["width"], r["height"]) == (32, 32)
    with pytest.raises(InputError, match="not the scores"):
        scene_of('{"aesthetic": 5}')


@pytest.mark.parametrize(
    "wrong",
    [{"num": 0}, {"seed": -1}, {"size": 8}, {"split": "test"}, {"textured": 1.5}, {"two": -0.1}],
    ids=str,
)
def test_settings_out_of_range(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        SceneSettings(**{"num": 2, "seed": 0, "split": "train", **wrong})
