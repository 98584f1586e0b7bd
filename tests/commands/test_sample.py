"""Test `cv3jax sample`.

A picture depends only on its prompt and seed. The command writes the files that it prints. Every
doubling of the size is one relay pass.
"""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from PIL import Image

from cv3jax.cascade.pipeline import load
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.commands import sample
from cv3jax.diffusion.pixels import to_uint8, up2
from data_pipeline.io import arguments
from data_pipeline.io.errors import InputError

PROMPTS = [
    "a large red circle in the center, white background",
    "a small blue ring on the left, black background",
]


@pytest.fixture(scope="module")
def cascade():
    return load(tiny_runs.trained("relay").workdir)


@pytest.fixture(scope="module")
def pair(cascade):
    """Return both prompts in one batch, with seeds 5 and 6."""
    return cascade.generate(PROMPTS, [5, 6])


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Check that two pictures are equal up to rounding.

    Another batch size is another program, and the conversion to 8 bits truncates.
    """
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    return difference.max() <= 2 and difference.mean() < 0.05


def test_what_generate_returns(cascade, pair):
    assert {name: image.shape for name, image in pair.items()} == {
        "base": (2, 32, 32, 3),
        "upsampled": (2, 64, 64, 3),
        "round_trip": (2, 64, 64, 3),
        "relay": (2, 64, 64, 3),
    }
    assert all(image.dtype == np.uint8 for image in pair.values())
    for image in pair.values():
        assert not close(image[0], image[1])
    for again, first in zip(cascade.generate(PROMPTS, [5, 6]).values(), pair.values(), strict=True):
        np.testing.assert_array_equal(again, first)


def test_a_picture_is_the_same_alone_in_a_batch_and_in_another_place(cascade, pair):
    swapped = cascade.generate(PROMPTS[::-1], [6, 5])
    assert close(cascade.generate(PROMPTS[1:], [6], size=32)["base"][0], pair["base"][1])
    for name, batch in pair.items():
        assert close(swapped[name][0], batch[1])
        assert close(swapped[name][1], batch[0])


def test_another_doubling_is_another_relay_pass(cascade, pair, monkeypatch):
    passes = []
    stage, factor = cascade.stage, cascade.description.stages["base"].factor

    def watched(name, text, keys, noise, *args, **options):
        passes.append((name, noise.shape[1] * factor))
        return stage(name, text, keys, noise, *args, **options)

    monkeypatch.setattr(cascade, "stage", watched)
    images = cascade.generate(PROMPTS, [5, 6], size=128)
    assert passes == [("base", 32), ("relay", 64), ("relay", 128)]
    assert images["relay"].shape == (2, 128, 128, 3)
    np.testing.assert_array_equal(images["base"], pair["base"])
    first = up2(jnp.asarray(pair["relay"], jnp.float32) / 127.5 - 1.0)
    # the second pass starts from what the first made
    assert close(images["upsampled"], np.asarray(to_uint8(first)))
    passes.clear()
    assert cascade.generate(PROMPTS, [5, 6], size=32).keys() == {"base"}
    assert passes == [("base", 32)]


def command(capsys, out: Path, *argv: str) -> tuple[list[str], dict]:
    """Run the sample command and return the names that it prints and its --json figures."""
    figures = out / "figures.json"
    sample.main(
        [
            "--checkpoint",
            str(tiny_runs.trained("relay").workdir),
            "--out",
            str(out),
            "--json",
            str(figures),
            *argv,
        ]
    )
    return json.loads(capsys.readouterr().out), tiny_runs.read_json(figures)


def test_the_command_writes_pictures_a_sheet_and_json(tmp_path, capsys, pair, monkeypatch):
    monkeypatch.setattr(sample, "BATCH", 2)  # three pictures are then a batch and a half
    argv = ["--prompt", PROMPTS[0], "--num", "3", "--seed", "5"]
    names, figures = command(capsys, tmp_path / "a", *argv)
    assert names == [
        f"00_a_large_red_circle_in_the_center_white_background_{seed}.png" for seed in (5, 6, 7)
    ]
    assert [(entry["file"], entry["prompt"], entry["seed"]) for entry in figures["images"]] == [
        (name, PROMPTS[0], seed) for name, seed in zip(names, (5, 6, 7), strict=True)
    ]
    pictures = [read(tmp_path / "a" / name) for name in names]
    assert {picture.shape for picture in pictures} == {(64, 64, 3)}
    assert close(pictures[0], pair["relay"][0])
    assert not close(pictures[0], pictures[1])
    sheet = read(tmp_path / "a" / "contact_sheet.png")
    assert any(
        np.array_equal(sheet[y : y + 64, x : x + 64], pictures[2])
        for y in range(12)
        for x in range(200, sheet.shape[1] - 63)
    )
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        *names,
        "contact_sheet.png",
        "figures.json",
    }
    assert command(capsys, tmp_path / "b", *argv)[0] == names
    for name in (*names, "contact_sheet.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_steps_and_guidance_replace_the_checkpoint_s(cascade, pair):
    assert arguments.pair("3,1", "steps", int, 1, 1000) == ({"steps": 3}, {"steps": 1})
    assert arguments.pair("7.5", "guidance", float, 0, 100) == (
        {"guidance": 7.5},
        {"guidance": 7.5},
    )
    assert arguments.pair(None, "steps", int, 1, 1000) == ({}, {})
    assert not np.array_equal(
        cascade.generate(PROMPTS, [5, 6], size=32, base=SamplerSettings(3))["base"], pair["base"]
    )
    start = cascade.description.stages["relay"].start
    with pytest.raises(InputError, match=f"900 steps for the relay stage, .* at t = {start}"):
        cascade.generate(PROMPTS, [5, 6], relay=SamplerSettings(900))
