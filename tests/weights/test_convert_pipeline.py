"""Test that `cv3jax convert --to diffusers` writes a pipeline, which needs no cv3jax.

It draws the pictures of the released code and of cv3jax.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import draw_without_cv3jax
import golden_models
import jax
import numpy as np
import pytest
from golden import PNG_PIXELS, arrays, meta
from released_files import converted, refused

from cv3jax.cascade.pipeline import load
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.checkpoints import cascades

GOLDEN = ("micro", "tiny")  # distilled with an embedded w; guided by a doubled batch
SCENES = ["a small green star, black background", "a large red ring, blue background"]
# wrong calls → what their ValueErrors say
WRONG = {
    "passes": ({"relay_passes": 9}, "relay_passes 9: give 0..4"),
    "size": ({"height": 100, "width": 128}, "100×128 pixels: give multiples of 32"),
    "steps": ({"num_inference_steps": (50, 1)}, "the base was distilled to 4 steps"),
    "w": ({"guidance_scale": 9.0}, "the base was distilled for a guidance of 1..3"),
    "kind": ({"output_type": "jpg"}, "output_type 'jpg': give one of pil, np, pt, latent"),
    "prompt": ({"prompt": []}, "prompt: give a string, or a list of some"),
    "prompt none": ({"prompt": None}, "prompt: give a string, or a list of some"),
    "prompt blank": ({"prompt": ["a", " "]}, "prompt ' ': give one that is not blank"),
    "prompt long": ({"prompt": "x" * 4097}, "prompt of 4,097 characters: give at most 4,096"),
    "no height": ({"height": 0}, "0×128 pixels: give multiples of 32"),
    "no width": ({"width": 0}, "128×0 pixels: give multiples of 32"),
}
WRONG_UPSCALE = {
    "strength 0": ({"strength": 0.0}, "strength 0.0: give a number above 0 and at most 1"),
    "strength 2": ({"strength": 2}, "strength 2: give a number above 0 and at most 1"),
    "strength nan": ({"strength": float("nan")}, "strength nan: give a number above 0"),
    "strength text": ({"strength": "0.5"}, "strength '0.5': give a number above 0"),
    "distilled": (
        {"strength": 0.5},
        "strength 0.5: the relay was distilled from its trained start",
    ),
}
STRENGTHS = (0.3, 1.0)


def nhwc(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -3, -1)


def golden_jobs(preset: str, folder: str, at: Path) -> list[dict[str, Any]]:
    """Return the jobs that draw the goldens: the base's picture, and the relay's of that."""
    g, prompt = arrays(preset), meta(preset)["e2e"]["prompt"]
    np.savez(at / f"{preset}_base.npz", base=nhwc(g["e2e.base.noise"]))
    low, relay = nhwc(g["e2e.relay.encode_noise"]), nhwc(g["e2e.relay.noise"])
    np.savez(at / f"{preset}_relay.npz", low=low, relay=relay)
    np.save(at / f"{preset}.npy", g["e2e.base.png_uint8"])
    base = {"prompt": prompt, "num_images_per_prompt": 2, "relay_passes": 0}
    return [
        {
            "name": f"{preset}.base",
            "folder": folder,
            "call": "__call__",
            "arguments": base,
            "noise": str(at / f"{preset}_base.npz"),
        },
        {
            "name": f"{preset}.relay",
            "folder": folder,
            "call": "upscale",
            "arguments": {"prompt": prompt},
            "noise": str(at / f"{preset}_relay.npz"),
            "image": str(at / f"{preset}.npy"),
        },
    ]


def scenes_noise() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sides = {"base": 8, "low": 16, "relay": 16}
    return {k: rng.standard_normal((2, n, n, 8), np.float32) for k, n in sides.items()}


def discs() -> np.ndarray:
    """Return a small and a large red disc on grey, uint8 [2, 64, 64, 3]."""
    y, x = np.mgrid[:64, :64]
    images = np.full((2, 64, 64, 3), 128, np.uint8)
    for image, radius in zip(images, (10, 25), strict=True):
        image[(y - 30) ** 2 + (x - 34) ** 2 < radius**2] = (220, 30, 30)
    return images


def upscale_jobs(distilled: str, at: Path) -> list[dict[str, Any]]:
    """Return the jobs that enlarge with strengths, and those that cannot."""
    teacher = str(converted(at / "teacher", "--checkpoint", "scenes_teacher", "--to", "diffusers"))
    np.save(at / "discs.npy", discs())
    np.savez(at / "discs.npz", **scenes_noise())
    common = {"call": "upscale", "image": str(at / "discs.npy"), "noise": str(at / "discs.npz")}
    given = {"prompt": SCENES}
    jobs = [
        {"name": f"strength.{one}", "folder": teacher, "arguments": {**given, "strength": one}}
        for one in STRENGTHS
    ] + [
        {"name": name, "folder": distilled, "arguments": {**given, **wrong}}
        for name, (wrong, _) in WRONG_UPSCALE.items()
    ]
    return [{**common, **job} for job in jobs]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return (arrays, error lines) of one process that has diffusers and no cv3jax."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    at, jobs = tmp_path_factory.mktemp("drawn"), []
    for preset in GOLDEN:
        source = golden_models.converted(preset)
        folder = converted(at / preset, "--checkpoint", source, "--to", "diffusers")
        jobs += golden_jobs(preset, str(folder), at)
    scenes = str(converted(at / "scenes", "--checkpoint", "scenes", "--to", "diffusers"))
    np.savez(at / "scenes.npz", **scenes_noise())
    common = {"folder": scenes, "call": "__call__"}
    right = {"prompt": SCENES}
    jobs.append({"name": "scenes", **common, "arguments": right, "noise": str(at / "scenes.npz")})
    # 32 × 64 from the base's 16 × 32, then twice that; without given noise
    wide = {"prompt": SCENES[0], "height": 64, "width": 128, "relay_passes": 2}
    jobs.append({"name": "wide", **common, "arguments": wide})
    for name, (wrong, _) in WRONG.items():
        jobs.append({"name": name, **common, "arguments": {**right, **wrong}})
    jobs += upscale_jobs(scenes, at)
    (at / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, "-I", draw_without_cv3jax.__file__, at / "jobs.json", at / "out"],
        # one thread: on a busy machine, several wait for each other
        env={
            **os.environ,
            "HF_HOME": str(at / "hf"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        },
        cwd=at,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(at / "out.npz") as file:
        return dict(file), json.loads((at / "out.json").read_text())


def check_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Check for ±1 on as few pixels as the goldens allow; truncation turns any error into 1."""
    assert ours.shape == theirs.shape
    off = np.abs(ours.astype(int) - theirs)
    assert off.max() <= 1, f"off by {off.max()}"
    assert (off > 0).any(axis=-1).mean() <= PNG_PIXELS, f"{(off > 0).any(axis=-1).sum()} are off"


@pytest.mark.parametrize("stage", ["base", "relay"])
@pytest.mark.parametrize("preset", GOLDEN)
def test_it_draws_the_pictures_of_the_released_code(preset, stage, drawn):
    check_close(drawn[0][f"{preset}.{stage}.images"], arrays(preset)[f"e2e.{stage}.png_uint8"])


def test_it_draws_the_packaged_scenes_as_cv3jax_does(drawn):
    """The whole cascade, with the autoencoder that diffusers does not have."""
    ours = load("scenes").generate(SCENES, [0, 0], noise=scenes_noise())
    check_close(drawn[0]["scenes.enlarged"], ours["base"])
    check_close(drawn[0]["scenes.images"], ours["relay"])


@pytest.mark.parametrize("strength", STRENGTHS)
def test_it_enlarges_with_a_strength_as_cv3jax_does(strength, drawn):
    """Three of ten steps, and all of them."""
    cascade = load("scenes_teacher", ("relay", "t5", "vae"))
    keys = jax.random.split(jax.random.key(0), 2)  # nothing is drawn from them
    ours = cascade.enlarge(
        cascade.text(SCENES),
        keys,
        discs(),
        noise={name: cascade.put_images(value) for name, value in scenes_noise().items()},
        final=True,
        settings=SamplerSettings(strength=strength),
    )
    check_close(drawn[0][f"strength.{strength}.images"], ours["relay"])
    other = next(one for one in STRENGTHS if one != strength)
    assert (drawn[0][f"strength.{other}.images"] != ours["relay"]).mean() > 0.2


def test_it_draws_other_sizes_and_iterates_the_relay(drawn):
    assert drawn[0]["wide.enlarged"].shape == (1, 32, 64, 3)
    assert drawn[0]["wide.images"].shape == (1, 64, 128, 3)


@pytest.mark.parametrize("name", [*WRONG, *WRONG_UPSCALE])
def test_what_cannot_be_drawn_is_a_line(name, drawn):
    assert drawn[1][name].startswith({**WRONG, **WRONG_UPSCALE}[name][1])
    assert "\n" not in drawn[1][name]


def test_nothing_else_failed_and_cv3jax_could_not_be_imported(drawn):
    assert drawn[1].keys() == {"cv3jax", *WRONG, *WRONG_UPSCALE}


def index_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model_index.json").read_text())


def test_a_cascade_without_a_relay_is_a_pipeline_too(tmp_path):
    source = golden_models.converted("micro")
    argv = ("--checkpoint", source, "--to", "diffusers", "--parts", "base,vae,t5")
    out = converted(tmp_path / "out", *argv)
    index = index_of(out)
    assert index["base"] == ["diffusers", "UNet2DConditionModel"]
    assert index["relay"] == index["relay_scheduler"] == [None, None]
    assert "relay" not in index["settings"]
    assert index["settings"]["text_length"] == cascades.read_cascade(source)[1].t5.length
    assert not (out / "relay_scheduler").exists()


def test_parts_that_are_no_pipeline_say_what_it_lacks(tmp_path, capsys):
    argv = ("--checkpoint", "scenes", "--to", "diffusers", "--parts", "t5,relay")
    out = converted(tmp_path / "out", *argv)
    assert "no model_index.json: a pipeline also takes vae\n" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["relay", "text_encoder", "tokenizer"]


def test_its_files_have_the_mode_of_ordinary_files(tmp_path):
    before = os.umask(0o027)
    try:
        out = converted(tmp_path / "out", "--checkpoint", "scenes", "--to", "diffusers")
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()}
    assert {str(path): oct(mode) for path, mode in modes.items() if mode != 0o640} == {}
    assert len(modes) > 10


@pytest.mark.parametrize(
    ("stage", "change", "line"),
    [
        ("base", {"form": "heun"}, "form of base is 'heun', but must be one of released, paper"),
        ("base", {"steps": 1001}, r"steps of base is 1001, but must be 1\.\.1000"),
        ("relay", {"blur": "none"}, "blur of relay is 'none', but must be another one"),
        ("relay", {"guidance": float("nan")}, "damaged: NaN is no number"),
        (None, {"tokenizer_class": "LlamaTokenizer"}, "its tokenizer is a 'LlamaTokenizer', and"),
        (None, {"model_max_length": 1, "tokenizer_class": 5}, "is not a tokenizer"),
    ],
)
def test_what_the_pipeline_cannot_hold_is_refused(stage, change, line, tmp_path):
    """Before anything is written."""
    shutil.copytree(cascades.read_cascade("scenes")[0], tmp_path / "in")
    file = tmp_path / "in" / ("cascade.json" if stage else "t5/tokenizer/tokenizer_config.json")
    content = json.loads(file.read_text())
    content.pop("sha256", None)
    (content["stages"][stage] if stage else content).update(change)
    file.write_text(json.dumps(content))
    refused(tmp_path, line, "--checkpoint", tmp_path / "in", "--to", "diffusers")
