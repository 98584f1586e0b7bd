"""Test what a PNG says of how its picture was drawn, and that it is drawn again from that."""

import dataclasses
import io
import json
import zlib

import golden_models
import numpy as np
import pytest
from bad_input import refused
from PIL import Image, PngImagePlugin

from cv3jax.cascade.sizes import Size
from cv3jax.commands import sample
from cv3jax.reports.pictures import save_png
from cv3jax.sampling.metadata import Drawing, read_drawing
from cv3jax.sampling.png_record import KEY, Checkpoint
from data_pipeline.expansion.result import Expansion
from data_pipeline.io.errors import InputError

BASE = {"steps": 50, "guidance": 7.5, "eta": 0.0, "form": "released"}
RELAY = {"steps": 10, "guidance": 5.0, "eta": 1.0, "form": "paper"}
EXPANSION = Expansion("a star", "a star of six points", "small", "ab" * 32, 9)
DRAWING = Drawing(
    'a "star",\nünï 星',
    7,
    Size(768, 512),
    {"base": BASE, "relay": RELAY},
    Checkpoint("c", "0123456789abcdef"),
)
FULL = Drawing(
    "a star", 0, Size(8, 8), {"relay": RELAY}, Checkpoint("c", "ff"), 64, ("images",), EXPANSION
)


def written(tmp_path, texts):
    save_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8), texts=texts)
    return tmp_path / "a.png"


@pytest.mark.parametrize("drawing", [DRAWING, FULL], ids=["plain", "every field"])
def test_a_png_holds_what_it_was_drawn_from(drawing, tmp_path):
    assert read_drawing(written(tmp_path, drawing.chunks())) == drawing


def test_other_programs_read_the_parameters(tmp_path):
    text = Image.open(written(tmp_path, DRAWING.chunks())).text["parameters"]
    prompt, _, fields = text.rpartition("\n")
    assert prompt == DRAWING.prompt
    assert dict(field.split(": ") for field in fields.split(", ")) == {
        "Steps": "50",
        "Sampler": "Euler",
        "CFG scale": "7.5",
        "Seed": "7",
        "Size": "512x768",  # width first, as there
        "Model hash": "0123456789",
        "Model": "c",
        "Hires steps": "10",
        "Hires CFG Scale": "5",
        "Version": "cv3jax 0.1.0",
    }
    assert FULL.parameters().startswith("a star of six points\nSteps: 10, Sampler: Euler a, ")


def record(**changes):
    value = DRAWING.to_json() | changes
    return {KEY: json.dumps({name: one for name, one in value.items() if one != "left out"})}


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        ({}, "has no record of how it was drawn"),
        ({KEY: "{"}, "its record is damaged"),
        ({KEY: "[" * 20_000}, "its record is damaged"),
        ({KEY: "7"}, "not of format 1"),
        (record(format=2), "not of format 1"),
        (record(prompt=" "), "damaged"),
        (record(prompt="x" * 5000), "damaged"),
        (record(seed=-1), "damaged"),
        (record(seed=True), "damaged"),
        (record(seed="left out"), "damaged"),
        (record(size=[8]), "damaged"),
        (record(size=[8, 10**9]), "damaged"),
        (record(size="8x8"), "damaged"),
        (record(tile="big"), "damaged"),
        (record(checkpoint={"name": 1, "fingerprint": "x"}), "damaged"),
        (record(checkpoint=3), "damaged"),
        (record(base="left out", relay="left out"), "damaged"),
        (record(base={**BASE, "steps": 4.5}), "damaged"),
        (record(base={**BASE, "guidance": float("nan")}), "damaged"),
        (record(base=7), "damaged"),
        (record(expansion={"text": "x"}), "not an expansion"),
        ({KEY: " " * 70_000}, "too long"),
    ],
)
def test_a_record_that_cannot_be_is_one_line(texts, line, tmp_path):
    path = written(tmp_path, texts)
    with pytest.raises(InputError, match=line) as e:
        read_drawing(path)
    assert str(e.value).startswith(f"--from-png {path}: ")
    assert "\n" not in str(e.value)


def test_a_packed_record_is_not_unpacked(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, "0" * 10_000_000, zip=True)
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=info)
    (tmp_path / "a.png").write_bytes(out.getvalue())
    with pytest.raises(InputError, match="packed or too long"):
        read_drawing(tmp_path / "a.png")


def test_a_chunk_whose_size_is_wrong_ends_the_search(tmp_path):
    path = written(tmp_path, DRAWING.chunks())
    data = path.read_bytes()
    at = data.index(b"iTXt") - 4
    path.write_bytes(data[:at] + (2**31 - 1).to_bytes(4) + data[at + 4 :])
    with pytest.raises(InputError):
        read_drawing(path)
    text = KEY.encode() + b"\0\0"  # without the fields that follow
    chunk = len(text).to_bytes(4) + b"iTXt" + text + zlib.crc32(b"iTXt" + text).to_bytes(4)
    path.write_bytes(data[:33] + chunk + data[33:])
    with pytest.raises(InputError):
        read_drawing(path)


def test_a_jpeg_is_no_png(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="is a JPEG; give a PNG that cv3jax sample wrote"):
        read_drawing(tmp_path / "a.jpg")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn")
    draw(out / "a", "--prompt", "a star", "--seed", "5", "--size", "32x64")
    return out / "a" / "00_a_star_5.png"


def draw(out, *flags):
    sample.main(["--checkpoint", str(golden_models.converted("micro")), "--out", str(out), *flags])


def test_a_picture_is_drawn_again_to_the_byte(drawn, tmp_path):
    draw(tmp_path / "b", "--from-png", str(drawn))
    assert (tmp_path / "b" / drawn.name).read_bytes() == drawn.read_bytes()


def test_a_flag_replaces_what_the_record_says(drawn, tmp_path):
    draw(tmp_path / "b", "--from-png", str(drawn), "--seed", "6", "--size", "64x32")
    made = read_drawing(tmp_path / "b" / "00_a_star_6.png")
    first = read_drawing(drawn)
    assert (first.seed, first.size) == (5, (32, 64))
    assert made == dataclasses.replace(first, seed=6, size=Size(64, 32))


def test_another_checkpoint_is_refused(drawn, tmp_path, capsys):
    argv = ["--checkpoint", "scenes", "--from-png", str(drawn), "--out", str(tmp_path / "b")]
    refused("sample", argv, capsys, "is not the one that drew this picture")
    assert not list(tmp_path.glob("b/*.png"))


def test_a_picture_of_files_is_refused(tmp_path, capsys):
    path = written(tmp_path, FULL.chunks())
    argv = ["--checkpoint", "scenes", "--from-png", str(path), "--out", str(tmp_path / "b")]
    refused("sample", argv, capsys, "drawn with --image, which its record does not hold")


def test_metadata_can_be_left_out(tmp_path):
    draw(tmp_path / "b", "--prompt", "a star", "--size", "32", "--no-metadata")
    assert Image.open(tmp_path / "b" / "00_a_star_0.png").text == {}
