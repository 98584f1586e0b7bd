"""Test what an enlarged picture's PNG says of how it was made, and that this makes it again."""

import dataclasses
import hashlib
import json
import re
import shlex
import subprocess

import numpy as np
import pytest
from bad_input import refused
from PIL import Image

from cv3jax.cascade.sizes import Size
from cv3jax.commands import upscale
from cv3jax.reports.pictures import save_png
from cv3jax.sampling.metadata import read_drawing
from cv3jax.sampling.png_record import KEY, Checkpoint, read_record
from cv3jax.sampling.upscale_metadata import Source, Upscaling, again, upscaling_of
from data_pipeline.io.errors import InputError

RELAY = {"steps": 10, "guidance": 5.0, "eta": 0.0, "form": "paper"}
MADE = Upscaling(
    "a 'red'\ncat \\ ünï",
    7,
    Size(768, 512),
    RELAY,
    Checkpoint("c", "0123456789abcdef"),
    Source("my photo.jpg", "ab" * 32),
    4,
    0.5,
    "adain",
)
PIXELS = dataclasses.replace(
    MADE, source=Source(None, "cd" * 32), tile=64, checkpoint=Checkpoint("c", "ff", "bfloat16")
)


def written(tmp_path, texts):
    save_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8), texts=texts)
    return tmp_path / "a.png"


@pytest.mark.parametrize("made", [MADE, PIXELS], ids=["file", "pixels"])
def test_a_png_holds_what_it_was_made_from(made, tmp_path):
    assert upscaling_of(read_record(written(tmp_path, made.chunks()))) == made


def test_other_programs_read_the_parameters():
    prompt, _, fields = MADE.parameters().rpartition("\n")
    assert prompt == MADE.prompt
    assert fields == (
        "Steps: 10, Sampler: Euler, CFG scale: 5, Seed: 7, Size: 512x768, Model hash: 0123456789,"
        " Model: c, Denoising strength: 0.5, Hires upscale: 4, Version: cv3jax 0.1.0"
    )


def test_the_command_of_a_record_is_read_as_it_was_made():
    line = again(MADE.to_json())
    assert "\n" not in line
    assert line.startswith("is an upscaled picture, of 'my photo.jpg' (SHA-256 abababababababab…)")
    words = line.partition("cv3jax upscale ")[2]
    said = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {words}"],
        capture_output=True,
        text=True,
        check=True,
        env={"LC_ALL": "C.UTF-8"},
    ).stdout
    args = upscale.parser().parse_args(said.split("\0")[:-1])
    assert args.prompt == [MADE.prompt]
    assert [path.name for path in args.image] == ["my photo.jpg"]
    assert (args.factor, args.strength, args.steps, args.guidance) == (4, 0.5, "10", "5.0")
    assert (args.seed, args.tile, args.colour_fix, args.checkpoint.name) == (7, 0, "adain", "c")


def record(**changes):
    value = MADE.to_json()
    own = value["upscale"] | {
        name: one for name, one in changes.items() if name in value["upscale"]
    }
    rest = {name: one for name, one in changes.items() if name not in own}
    return {KEY: json.dumps({**value, "upscale": own, **rest})}


@pytest.mark.parametrize(
    "changes",
    [
        {"factor": 3},
        {"factor": True},
        {"strength": 0},
        {"strength": float("nan")},
        {"strength": "0.5"},
        {"colour_fix": "sharp"},
        {"colour_fix": ["adain"]},
        {"image": None},
        {"image": {"name": 5, "sha256": "ab"}},
        {"image": {"name": "a"}},
        {"relay": 7},
        {"seed": -1},
        {"upscale": 7},
        {"checkpoint": {"name": "c", "fingerprint": "ff", "dtype": "\x1b[2J"}},
    ],
)
def test_a_record_that_cannot_be_is_one_line(changes, tmp_path):
    path = written(tmp_path, record(**changes))
    with pytest.raises(InputError, match=r"its record is damaged$"):
        read_drawing(path)


@pytest.fixture(scope="module")
def enlarged(tmp_path_factory):
    """Return the folder of a picture and of what `cv3jax upscale` made of it."""
    at = tmp_path_factory.mktemp("enlarged")
    pixels = np.random.default_rng(0).integers(256, size=(20, 28, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(at / "my photo.png")
    flags = ["--image", str(at / "my photo.png"), "--prompt", "it's a red star", "--seed", "3"]
    upscale.main(["--checkpoint", "scenes", *flags, "--out", str(at / "out")])
    return at


def test_the_command_records_and_its_line_makes_the_picture_again(enlarged, tmp_path, capsys):
    made = enlarged / "out" / "my photo_x2.png"
    kept = upscaling_of(read_record(made))
    digest = hashlib.sha256((enlarged / "my photo.png").read_bytes()).hexdigest()
    assert kept.source == Source("my photo.png", digest)
    assert (kept.prompt, kept.seed, kept.size) == ("it's a red star", 3, (40, 56))
    assert (kept.factor, kept.strength, kept.colour_fix, kept.tile) == (2, 1.0, "wavelet", 0)
    argv = ["--checkpoint", "scenes", "--from-png", str(made), "--out", str(tmp_path / "b")]
    refused("sample", argv, capsys, "is an upscaled picture, of 'my photo.png' (SHA-256 ")
    assert not list(tmp_path.glob("b/*.png"))
    with pytest.raises(InputError) as e:
        read_drawing(made)
    words = shlex.split(re.search(r"run cv3jax upscale (.*)", str(e.value))[1])
    places = {"my photo.png": str(enlarged / "my photo.png"), "DIR": str(tmp_path)}
    upscale.main([places.get(word, word) for word in words])
    assert (tmp_path / made.name).read_bytes() == made.read_bytes()


def test_metadata_can_be_left_out(enlarged, tmp_path):
    flags = ["--image", str(enlarged / "my photo.png"), "--prompt", "x", "--no-metadata"]
    upscale.main(["--checkpoint", "scenes", *flags, "--out", str(tmp_path)])
    assert Image.open(tmp_path / "my photo_x2.png").text == {}
    assert Image.open(enlarged / "out" / "my photo_x2.png").text.keys() == {KEY, "parameters"}
