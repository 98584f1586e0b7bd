"""Test the quickstart: restarts, what it measures, and a whole run as a command."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import subprocesses
import tiny_runs
from PIL import Image

from cv3jax.cascade.pipeline import load
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.checkpoints import cascades
from cv3jax.distillation import run as distilling
from cv3jax.evaluation.distilled_scenes import compared
from cv3jax.evaluation.image_metrics import psnr
from cv3jax.evaluation.scenes import assess, with_noise
from cv3jax.quickstart import run as quickstart
from cv3jax.training import run as training
from data_pipeline.io.errors import InputError, StoppedError
from data_pipeline.io.files import read_json, write_json

PROMPTS = [
    "a large red circle in the center, white background",
    "a small blue ring on the left, black background",
]


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def fake_training(config, workdir: Path) -> dict:
    """Write what training writes, from the cascade that this session already has."""
    run = tiny_runs.trained(config.stage)
    for name in ("cascade", "metrics.jsonl"):
        copy = shutil.copytree if (run.workdir / name).is_dir() else shutil.copy
        workdir.mkdir(parents=True, exist_ok=True)
        copy(run.workdir / name, workdir / name)
    return run.figures


def fake_distillation(config, workdir: Path) -> dict:
    """Write what `distill` writes, from the cascade that it is given.

    Its stage is unchanged, but described as one of 2 steps and then of 1.
    """
    name = config.stage.stage
    (source, description), rounds = cascades.read_cascade(config.stage.cascade), []
    for number, steps in enumerate((2, 1), 1):
        place = workdir / "rounds" / f"{number}_{steps}_steps"
        stage = dataclasses.replace(description.stages[name], steps=steps)
        for target in (place / "cascade", workdir / "cascade"):
            shutil.copytree(source, target, dirs_exist_ok=True)
            cascades.write_cascade(target, description.with_stage(name, stage))
        (place / "metrics.jsonl").write_text(
            "".join(json.dumps({"step": step, "loss": 1.0 / step}) + "\n" for step in (2, 4))
        )
        rounds.append({"round": number, "steps": steps})
    rows = [
        {"steps": n, "round": one, "distance": {"all": 0.1}}
        for n in (2, 1)
        for one in (None, 3 - n)
    ]
    write_json(workdir / "quality.json", {"stage": name, "full": 2, "rows": rows})
    return {"stage": name, "full": 2, "rounds": rounds}


def some_compared(*args) -> dict:
    """Return compared samplers of two steps; more of them would be more compilations."""
    return {name: way for name, way in compared(*args).items() if way.steps == (2, 2)}


def remembered(function):
    """Return a function that is computed once for equal keywords.

    Its first argument is a cascade, and another one may follow.
    """
    results = {}

    def call(cascade, *more, **options):
        key = tuple(sorted(options.items()))
        if key not in results:
            results[key] = function(cascade, *more, **options)
        return results[key]

    return call


def judged(cascade, **options):
    """Call `assess` of a cascade that draws at the smallest side that can be judged."""
    base = dataclasses.replace(cascade.description.stages["base"], image_size=64)
    cascade.description = cascade.description.with_stage("base", base)
    return assess(cascade, **options)


def test_a_stopped_quickstart_resumes_and_a_finished_one_trains_nothing(tmp_path, monkeypatch):
    trained, distilled = [], []
    tiny_runs.trained("relay")  # by what is replaced below

    def distil(config, workdir, **_):
        distilled.append((config, workdir))
        if [each.stage.stage for each, _ in distilled].count("relay") == 1:
            raise StoppedError(signal.SIGTERM, "stopped")
        return fake_distillation(config, workdir)

    monkeypatch.setattr(
        training,
        "run",
        lambda config, workdir, **_: trained.append(config.stage) or fake_training(config, workdir),
    )
    monkeypatch.setattr(distilling, "run", distil)
    for name, function in (
        ("assess", judged),
        ("show", quickstart.show),
        ("assess_distilled", quickstart.assess_distilled),
    ):
        # once is enough for the second start
        monkeypatch.setattr(quickstart, name, remembered(function))
    monkeypatch.setattr(quickstart, "compared", some_compared)
    stages = quickstart.STAGES
    monkeypatch.setattr(quickstart, "STAGES", stages[:2])
    with pytest.raises(InputError, match="q/relay"):  # stopped: there is no relay yet
        quickstart.run(tmp_path / "q", tiny=True)
    monkeypatch.setattr(quickstart, "STAGES", stages)
    with pytest.raises(StoppedError):  # in the middle of its distillation
        quickstart.run(tmp_path / "q", tiny=True)
    report = quickstart.run(tmp_path / "q", tiny=True, install=3.0)
    assert [config.stage.stage for config, _ in distilled] == ["base", "base", "relay", "relay"]
    before, after = distilled[2:]
    assert before == after
    assert before[0].stage.data.path == str(tmp_path / "q" / "data" / "train")
    assert trained == list(stages)
    assert set(report["seconds"]) >= {"install", "data", *stages, "distill", "sample", "total"}
    assert list(report["distilled"]) == ["full", "undistilled_2_2", "distilled_2_2"]
    # what is called distilled is the full sampler's
    assert report["distilled"]["distilled_2_2"]["image_distance"] == 0.0
    assert set(report["vae_psnr"]) == {"64", "128"}
    assert set(report["prompt_following"]) == {
        "real",
        "real_altered",
        "vae",
        "vae_final",
        "base",
        "control",
        "relay",
    }
    assert set(report["prompt_following"]["real"].values()) == {1.0}
    assert set(report["detail"]) == {"real", "vae_final", "control", "noise_control", "relay", "se"}
    assert tiny_runs.read_json(tmp_path / "q" / "report.json") == report
    page = (tmp_path / "q" / "report.html").read_text()
    assert page.startswith("<!")
    for title in ("Distilled", "Base: quality against passes", "Relay, distilled to 1 step: loss"):
        assert title in page
    assert read(tmp_path / "q" / "samples.png").shape[0] > 2 * 128
    stamp = next((tmp_path / "q" / "data" / "train").glob("*array_record*")).stat()
    again = quickstart.run(tmp_path / "q", tiny=True)
    assert trained == list(stages)
    assert again["seconds"]["install"] == 3.0
    assert again["n"] == report["n"] == 4
    assert next((tmp_path / "q" / "data" / "train").glob("*array_record*")).stat() == stamp
    assert len(distilled) == 4
    assert load(tmp_path / "q").description.stages.keys() == {"base", "relay"}
    assert load(tmp_path / "q").description.stages["base"].steps == 2
    assert [
        stage.steps for stage in load(tmp_path / "q" / "distilled").description.stages.values()
    ] == [1, 1]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff"])
def test_damaged_facts_are_named(text, tmp_path):
    (tmp_path / "figures.json").write_text(text, errors="surrogateescape")
    with pytest.raises(
        InputError, match=r"figures\.json is damaged .*; remove it and run the same command"
    ):
        read_json(tmp_path / "figures.json")


def test_noise_of_the_energy_of_a_difference():
    rng = np.random.default_rng(0)
    images = rng.integers(100, 150, (2, 64, 64, 3), np.uint8)
    like = images.copy()
    like[1, ::2] += 12  # mean square 72
    noisy = with_noise(images, like, 0)
    np.testing.assert_array_equal(noisy[0], images[0])
    assert np.mean((noisy[1].astype(float) - images[1]) ** 2) == pytest.approx(72, rel=0.01)
    white = np.full((1, 64, 64, 3), 255, np.uint8)
    noisy_white = with_noise(white, white - 12, 0)
    assert np.mean((noisy_white.astype(float) - 255) ** 2) == pytest.approx(144, rel=0.01)
    assert psnr(images[1:], like[1:]) == pytest.approx(10 * np.log10(255**2 / 72))


@pytest.mark.slow
def test_the_quickstart_as_a_user_runs_it(tmp_path):
    first = subprocesses.run("cv3jax", "quickstart", "--workdir", str(tmp_path / "q"), "--tiny")
    assert subprocesses.foreign(first.stderr) == []
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "q").rglob("checkpoints/**/*")}
    assert files
    again = subprocesses.run(
        "cv3jax",
        "quickstart",
        "--workdir",
        str(tmp_path / "q"),
        "--tiny",
        "--json",
        str(tmp_path / "r.json"),
    )
    assert "report.html" in again.stderr
    assert tiny_runs.read_json(tmp_path / "r.json")["vae_psnr"].keys() == {"64", "128"}
    assert {
        path: path.stat().st_mtime_ns for path in (tmp_path / "q").rglob("checkpoints/**/*")
    } == files
    for name in ("q", "q/distilled"):
        out = tmp_path / "out" / name
        drawn = subprocesses.run(
            "cv3jax",
            "sample",
            "--checkpoint",
            str(tmp_path / name),
            "--prompt",
            PROMPTS[0],
            "--out",
            str(out),
        )
        assert subprocesses.foreign(drawn.stderr) == []
        assert read(next(out.glob("00_a_large*.png"))).shape == (128, 128, 3)
    with pytest.raises(InputError, match=r"distilled to 1 .* give 1"):
        load(tmp_path / "q" / "distilled").generate(PROMPTS[:1], [0], base=SamplerSettings(2))
