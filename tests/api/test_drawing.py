"""Test drawing through the API: the command's pictures, what is refused, and what is compiled."""

import re
from pathlib import Path

import golden_models
import jax
import numpy as np
import pytest
from PIL import Image

import cv3jax
from cv3jax.commands import sample
from cv3jax.sampling import few
from cv3jax.sampling.inputs import LAST_SEED
from data_pipeline.io.errors import InputError

COMPILED = "/jax/core/compile/backend_compile_duration"
PROMPTS = ["a red star", "a blue circle"]


@pytest.fixture
def cannot_draw(monkeypatch):
    monkeypatch.setattr(
        "cv3jax.api.cascade.draw", lambda *_, **__: pytest.fail("this was not to be drawn")
    )


def test_pictures_are_those_of_the_command(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(few, "choose_mesh", lambda text, count: None)  # one device, as the API
    drawn = pipe(PROMPTS, seed=5, num=2)
    flags = ["--checkpoint", str(golden_models.converted("micro"))]
    flags += [flag for prompt in PROMPTS for flag in ("--prompt", prompt)]
    sample.main([*flags, "--seed", "5", "--num", "2", "--out", str(tmp_path)])
    files = sorted(tmp_path.glob("0*.png"))
    assert len(drawn) == len(files) == 4
    for image, file in zip(drawn, files, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(file)))
    saved = drawn.save(tmp_path / "saved")
    assert [path.name for path in saved] == [
        "00_a_red_star_5.png",
        "01_a_red_star_6.png",
        "02_a_blue_circle_5.png",
        "03_a_blue_circle_6.png",
    ]
    assert np.array_equal(np.asarray(Image.open(saved[2])), np.asarray(drawn[2]))


def test_the_first_lines_of_the_guide_run(pipe, tmp_path, monkeypatch):
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "python.md").read_text()
    lines = re.search(r"```python\n(.*?)```", guide, re.DOTALL)[1]
    assert len(lines.splitlines()) <= 11
    monkeypatch.setattr(cv3jax.Cascade, "load", lambda source: pipe)  # a smaller one
    monkeypatch.setattr(Image.Image, "show", lambda image: None)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(lines, names)
    assert len(list(tmp_path.glob("runs/from_python/*.png"))) == len(names["pictures"]) == 4


def test_what_pictures_were_drawn_from(pipe):
    drawn = pipe("a red star", seed=[3], num=2, guidance=(2.0, 3.0), batch=1)
    assert (drawn.prompts, drawn.seeds) == (["a red star"] * 2, [3, 4])
    assert {name: value.shape for name, value in drawn.stages.items()} == {
        "base": (2, 32, 32, 3),
        "upsampled": (2, 64, 64, 3),
        "relay": (2, 64, 64, 3),
    }
    assert {name: value.shape for name, value in drawn.latents.items()} == {
        "base": (2, 4, 4, 4),
        "relay": (2, 8, 8, 4),
    }
    assert drawn.settings == {
        "size": (64, 64),
        "tile": None,
        "base": {"steps": 4, "guidance": 2.0, "eta": 0.0},
        "relay": {"steps": 1, "guidance": 3.0, "eta": 0.0},
    }
    assert {"text", "base", "relay", "vae"} <= drawn.seconds.keys()
    assert min(drawn.seconds.values()) > 0
    assert np.array_equal(np.asarray(drawn[1]), drawn.stages["relay"][1])
    decoded = pipe.decode(drawn.latents["relay"])
    assert np.abs(np.asarray(decoded[0], int) - np.asarray(drawn[0], int)).max() <= 1
    # the next seed is another picture, and a seed the same one in any batch
    assert not np.array_equal(drawn[0], drawn[1])
    alone = pipe("a red star", seed=4, guidance=(2.0, 3.0))
    assert np.array_equal(alone[0], drawn[1])


def test_a_random_seed_draws_the_picture_again(pipe):
    first = pipe("a red star")
    assert 0 <= first.seeds[0] <= LAST_SEED
    assert np.array_equal(pipe("a red star", seed=first.seeds)[0], first[0])


def test_sizes_are_height_and_width(pipe):
    assert pipe("a red star", seed=0, size=(32, 64))[0].size == (64, 32)  # PIL: width first
    drawn = pipe("a red star", seed=0, size=(128, 64))
    assert drawn.stages["base"].shape[1:3] == (64, 32)
    assert drawn.stages["relay"].shape[1:3] == (128, 64)


@pytest.mark.usefixtures("cannot_draw")
@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({"size": 100}, ["--size", "100"]),
        ({"size": 4096}, ["--size", "4096"]),
        ({"steps": 5}, ["--steps", "5"]),
        ({"steps": (4, 2)}, ["--steps", "4,2"]),
    ],
)
def test_what_cannot_be_has_the_command_s_line(pipe, given, flags, tmp_path):
    with pytest.raises(ValueError, match=r"give|must be|makes") as raised:
        pipe("a red star", **given)
    always = ["--checkpoint", str(golden_models.converted("micro")), "--prompt", "a red star"]
    with pytest.raises(InputError) as said:
        sample.main([*always, *flags, "--out", str(tmp_path / "out")])
    assert str(raised.value) == str(said.value)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("cannot_draw")
@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"tile": 40}, r"tile 40: give a multiple of 32 pixels, at least 64"),
        ({"batch": 0}, "batch 0: give"),
        ({"batch": 1.5}, r"batch 1\.5: give"),
        ({"callback": 5}, "callback 5: give a function"),
        ({"num": 0}, "num 0: give"),
        ({"seed": [1, 2]}, "2 seeds for 1 prompt"),
        ({"guidance": -1}, "guidance -1: give"),
        ({"eta": 2}, "eta 2: give"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_drawn(pipe, given, line):
    with pytest.raises(ValueError, match=f"^{line}"):
        pipe("a red star", size=128 if "tile" in given else None, **given)


def test_a_misspelt_keyword_names_the_nearest(pipe):
    with pytest.raises(TypeError, match="did you mean steps"):
        pipe("a red star", step=4)


def test_drawing_compiles_nothing_after_compile(pipe):
    compiled = []

    def count(event, *_, **__):
        if event == COMPILED:
            compiled.append(event)

    seconds = pipe.compile([(64, 32)], [3], eta=0.5)
    assert list(seconds) == ["64×32, 3 at once"]
    jax.monitoring.register_event_duration_secs_listener(count)
    drawn = pipe("a red star", num=3, seed=1, size=(64, 32), eta=0.5)
    assert (len(drawn), compiled) == (3, [])
    pipe("a red star", num=2, seed=1, size=(64, 32), eta=0.5)  # another batch
    assert compiled


@pytest.mark.parametrize(("sizes", "batches"), [(64, [1]), ([], [1]), ([64], 1), ([64], [0])])
def test_compile_takes_lists(pipe, sizes, batches):
    with pytest.raises(ValueError, match=r"(sizes|batches|batch) .*: give"):
        pipe.compile(sizes, batches)


def test_compile_takes_no_step(pipe):
    keys = jax.random.split(jax.random.key(0), 1)
    noise = jax.random.normal(jax.random.key(1), (1, 4, 4, 4))
    begun = pipe._engine.without_steps().stage("base", pipe.text("a"), keys, noise)
    assert np.allclose(begun, np.sqrt(1 + 14.6146**2) * noise, rtol=1e-4)
