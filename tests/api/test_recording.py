"""Test that pictures from Python record what they were made from, and are made again by that."""

import re

import golden_models
import numpy as np
import pytest
from PIL import Image

import cv3jax
from cv3jax.api.drawing import Request
from cv3jax.cascade.sampler_settings import AS_DESCRIBED
from cv3jax.cascade.sizes import Size
from cv3jax.commands import sample
from cv3jax.reports.pictures import save_png
from cv3jax.sampling import few
from cv3jax.sampling.jobs import Job
from cv3jax.sampling.metadata import read_drawing
from cv3jax.sampling.png_record import read_record
from data_pipeline.io.errors import InputError

PROMPT = "a small green star, black background"


@pytest.fixture(scope="module")
def scenes():
    return cv3jax.Cascade.load("scenes")


@pytest.mark.parametrize("given", [{}, {"tile": 64, "eta": (0.5, 0.0), "guidance": 2}])
def test_the_command_draws_the_picture_again_to_the_byte(given, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(few, "choose_mesh", lambda text, count: None)  # one device, as the API
    # one at a time, as the command draws one: a batch may round otherwise
    drawn = scenes([PROMPT, "a large red circle"], seed=[3, 8], batch=1, **given)
    for path in drawn.save(tmp_path / "saved"):
        argv = ["--checkpoint", "scenes", "--from-png", str(path), "--out", str(tmp_path / "again")]
        sample.main(argv)
        again = tmp_path / "again" / f"00_{path.name[3:]}"  # its prompt is the only one
        assert again.read_bytes() == path.read_bytes()
    assert read_drawing(path).tile == given.get("tile", 0)


def test_an_enlarged_picture_is_made_again_by_its_line(scenes, tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(20, 28, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    path = scenes.upscale(image, "it's a star", seed=5).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="is an upscaled picture, of pixels from Python") as e:
        read_drawing(path)
    call = re.search(r"to make it again, call (.*)", str(e.value))[1]
    again = eval(call, {"cv3jax": cv3jax, "image": image})
    assert again.save(tmp_path / "b.png").read_bytes() == path.read_bytes()
    assert read_record(path)["prompt"] == "it's a star"
    other = scenes.upscale(image.rotate(90, expand=True), "it's a star", seed=5)
    other.save(tmp_path / "c.png")
    digests = {read_record(tmp_path / f"{n}.png")["upscale"]["image"]["sha256"] for n in "abc"}
    assert len(digests) == 2


def test_records_can_be_left_out(pipe, tmp_path):
    (path,) = pipe("a star", seed=1).save(tmp_path, metadata=False)
    assert Image.open(path).text == {}
    made = pipe.upscale(np.zeros((32, 32, 3), np.uint8), "a star")
    assert Image.open(made.save(tmp_path / "large.png", metadata=False)).text == {}
    assert Image.open(made.save(tmp_path / "large.png")).text
    with pytest.raises(ValueError, match=r"large\.jpg: give a name that ends with \.png"):
        made.save(tmp_path / "large.jpg")
    assert not (tmp_path / "large.jpg").exists()


def test_other_types_are_recorded_and_the_command_does_not_draw_them(tmp_path):
    request = Request(["a star"], [1], (Size(32, 32), Size(64, 64)), AS_DESCRIBED, AS_DESCRIBED)
    found = {}
    for dtype in (None, "float32", "bfloat16"):
        pipe = cv3jax.Cascade.load(golden_models.converted("micro"), dtype=dtype)
        texts = pipe._recorder.drawn(request).of(Job("a star", 1, "a.png"))
        save_png(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8), texts=texts)
        found[dtype] = read_drawing(tmp_path / "a.png").checkpoint.dtype
    assert found == {None: None, "float32": None, "bfloat16": "bfloat16"}
    argv = ["--checkpoint", str(golden_models.converted("micro"))]
    argv += ["--from-png", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    with pytest.raises(InputError, match="drawn in bfloat16 from Python, and this command draws"):
        sample.main(argv)
