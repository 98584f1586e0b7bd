"""Test `cv3jax upscale`: what it writes, and what it refuses in one line, without a file."""

import dataclasses
import json

import numpy as np
import pytest
from bad_input import refused
from odd_images import exif, saved
from PIL import Image

from cv3jax.cascade.upscaling import Upscaled
from cv3jax.commands import upscale
from cv3jax.sampling import enlarge
from data_pipeline.io.errors import InputError


def photo(path, height=20, width=28, **options):
    pixels = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    path.write_bytes(saved(Image.fromarray(pixels), **options))
    return str(path)


def argv(tmp_path, *flags, checkpoint="scenes_teacher"):
    return ["--checkpoint", checkpoint, "--out", str(tmp_path / "out"), *flags]


# flags, what the line says; {p} is a picture
REFUSED = [
    ("--image {p} --prompt=", "--prompt '': must hold 1..4096 characters"),
    ("--image {p} --prompt {long}", ": has 50,000 characters; give at most 4,096"),
    ("--image {p} --prompt x --prompt y", "2 --prompt for 1 --image; give one for all, or one for"),
    ("--image {at}/none.png --prompt x", "none.png: there is no such file"),
    ("--image {at}/text.png --prompt x", "text.png: not a readable"),
    ("--image {at}/torn.png --prompt x", "torn.png: damaged image data"),
    ("--image {at} --prompt x", "it is a directory; give a regular file"),
    ("--image {p} --image {p} --prompt x", "two pictures are called a; rename one of them"),
    ("--image {p} --prompt x --factor 3", "invalid choice: 3 (choose from"),
    ("--image {p} --prompt x --factor two", "invalid int value: 'two'"),
    ("--image {p} --prompt x --strength 0", "strength 0.0: give a value above 0 and at most 1"),
    ("--image {p} --prompt x --strength 1.5", "strength 1.5: give a value above 0"),
    ("--image {p} --prompt x --strength nan", "strength nan: give a value above 0"),
    ("--image {p} --prompt x --strength half", "invalid float value: 'half'"),
    ("--image {p} --prompt x --tile 8", "--tile 8: 16..16384 pixels, or 0 for no tiles"),
    ("--image {p} --prompt x --tile 40", "tile 40: give a multiple of 16 pixels, at least 32"),
    ("--image {p} --prompt x --steps 0", "--steps 0: give one whole number"),
    ("--image {p} --prompt x --steps 900", "900 steps for the relay stage, which starts at t"),
    ("--image {p} --prompt x --guidance=-1", "--guidance -1: give one number"),
    ("--image {p} --prompt x --guidance nan", "--guidance nan: give one number"),
    ("--image {p} --prompt x --steps 4,1", "--steps 4,1: give one whole number; the relay is"),
    ("--image {p} --prompt x --guidance 1,2", "--guidance 1,2: give one number; the relay is the"),
    ("--image {p} --prompt x --seed=-1", "--seed -1: 0..4294967295"),
    ("--image {p} --prompt x --colour-fix sharp", "invalid choice: 'sharp'"),
    ("--image {p} --prompt x --colour-fx none", "did you mean --colour-fix"),
    ("--prompt x", "--image"),
    ("--image {p}", "--prompt"),
    ("--image {p} --prompt x --checkpoint {at}/none", "is not a checkpoint"),
    (
        "--image {p} --prompt x --checkpoint scenes --strength 0.5",
        "strength 0.5 for the relay stage: it was distilled to 1 step from its trained start",
    ),
    (
        "--image {p} --prompt x --checkpoint scenes --steps 2",
        "2 steps for the relay stage: this stage was distilled to 1",
    ),
]


@pytest.mark.parametrize(("flags", "line"), REFUSED)
def test_what_cannot_be_is_one_line_and_nothing_is_written(flags, line, tmp_path, capsys):
    picture = photo(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("a text and no picture")
    (tmp_path / "torn.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    words = {"p": picture, "at": tmp_path, "long": "\0"}
    given = [word.format(**words) for word in flags.split()]
    given = ["word " * 10_000 if word == "\0" else word for word in given]
    before = sorted(tmp_path.iterdir())
    refused("upscale", argv(tmp_path, *given), capsys, line)
    assert sorted(tmp_path.iterdir()) in (before, sorted([*before, tmp_path / "out"]))
    assert not list((tmp_path / "out").glob("*"))


def test_no_result_replaces_a_given_picture(tmp_path, capsys):
    pictures = [photo(tmp_path / "a.png"), photo(tmp_path / "a_x2.png", height=24)]
    kept = (tmp_path / "a_x2.png").read_bytes()
    given = [word for picture in pictures for word in ("--image", picture)]
    flags = ["--checkpoint", "scenes_teacher", "--out", str(tmp_path), *given, "--prompt", "x"]
    refused("upscale", flags, capsys, "the result a_x2.png would replace an --image")
    assert (tmp_path / "a_x2.png").read_bytes() == kept


def test_a_cascade_without_a_relay_is_refused(tmp_path, capsys, monkeypatch):
    directory, description = upscale.cascades.read_cascade("scenes_teacher")
    alone = dataclasses.replace(description, stages={"base": description.stages["base"]})
    monkeypatch.setattr(upscale.cascades, "read_cascade", lambda path: (directory, alone))
    flags = argv(tmp_path, "--image", photo(tmp_path / "a.png"), "--prompt", "x")
    refused("upscale", flags, capsys, "has no relay, which enlarges pictures")


@pytest.fixture
def asked(monkeypatch):
    """Put a function that enlarges without a network in place of the cascade's; list its calls."""
    calls = []

    class Nothing:
        tokenize = type("Tokenize", (), {"unknown": staticmethod(lambda prompts: [])})

        def with_progress(self, progress):
            return self

    def enlarged(cascade, layers, prompt, how):
        calls.append((layers, prompt, how))
        size = layers.size.times(how.factor)
        image = Image.new("RGB", (size.width, size.height), "red")
        return Upscaled(image, {"relay": 4.0, "result": 1.0})

    monkeypatch.setattr(enlarge, "load", lambda *_: Nothing())
    monkeypatch.setattr(enlarge, "upscale", enlarged)
    return calls


def test_each_picture_is_enlarged_with_its_prompt(asked, tmp_path, capsys):
    first = photo(tmp_path / "a.png")
    second = photo(tmp_path / "b.jpg", kind="JPEG", exif=exif(6))
    flags = ["--image", first, "--image", second, "--prompt", "a cat", "--prompt", "a dog"]
    flags += ["--factor", "4", "--strength", "0.5", "--steps", "6", "--tile", "64", "--seed", "3"]
    flags += ["--colour-fix", "adain", "--json", str(tmp_path / "figures.json")]
    upscale.main(argv(tmp_path, *flags))
    assert [prompt for _, prompt, _ in asked] == ["a cat", "a dog"]
    assert [tuple(layers.size) for layers, _, _ in asked] == [(20, 28), (28, 20)]
    how = asked[0][2]
    assert (how.factor, how.seed, how.colour_fix) == (4, 3, "adain")
    chosen = (how.settings.strength, how.settings.steps, how.settings.tile)
    assert chosen == (0.5, 6, 64)
    assert Image.open(tmp_path / "out" / "a_x4.png").size == (112, 80)
    assert Image.open(tmp_path / "out" / "b_x4.png").size == (80, 112)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [one["file"] for one in figures["images"]] == ["a_x4.png", "b_x4.png"]
    assert figures["images"][0]["colour_drift"] == {"relay": 4.0, "result": 1.0}
    assert figures["images"][1]["size"] == [112, 80]
    said = capsys.readouterr().err
    assert "a_x4.png: 80×112 (height×width), colours 1.0 of 255" in said
    assert "2 pictures in" in said


def test_one_prompt_serves_all_pictures(asked, tmp_path):
    flags = ["--image", photo(tmp_path / "a.png"), "--image", photo(tmp_path / "b.png")]
    upscale.main(argv(tmp_path, *flags, "--prompt", "a cat"))
    assert [prompt for _, prompt, _ in asked] == ["a cat", "a cat"]
    assert [how.settings.tile for *_, how in asked] == [0, 0]


def test_a_picture_too_large_for_memory_takes_tiles_or_is_refused(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(enlarge, "settings_that_fit", _in_tiles)
    upscale.main(argv(tmp_path, "--image", photo(tmp_path / "a.png"), "--prompt", "a cat"))
    assert asked[0][2].settings.tile == 128
    monkeypatch.undo()
    monkeypatch.setattr("cv3jax.cascade.memory.room", lambda mesh: 1)
    with pytest.raises(InputError, match="GB per device"):
        upscale.main(argv(tmp_path, "--image", photo(tmp_path / "c.png"), "--prompt", "a cat"))
    assert not (tmp_path / "out" / "c_x2.png").exists()


def _in_tiles(cascade, pictures, relay):
    assert pictures.given
    return relay, dataclasses.replace(relay, tile=128)
