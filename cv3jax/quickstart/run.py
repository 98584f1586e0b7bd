"""`cv3jax quickstart`: the whole system on one CPU.

It renders captioned scenes, trains autoencoder, base and relay, distils both, and shows in one
report what they make of captions they never saw. Killed and started again, it continues.
"""

import json
from pathlib import Path

import numpy as np

from cv3jax.cascade.pipeline import Cascade, load
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.writing import checkpoint_path
from cv3jax.evaluation.distilled_scenes import assess_distilled, compared, with_rounds
from cv3jax.evaluation.scenes import assess, draw_captions, round_trip
from cv3jax.quickstart.environment import environment
from cv3jax.quickstart.next_steps import next_steps
from cv3jax.quickstart.report import write_report
from cv3jax.quickstart.stages import (
    DISTILLED,
    STAGES,
    build_data,
    distil_stages,
    paired_rounds,
    rounds_of,
    train_stage,
)
from cv3jax.quickstart.stopwatch import Stopwatch
from cv3jax.reports.pictures import contact_sheet, save_png
from cv3jax.training.metrics import read_lines
from data_pipeline.io import extras, locks
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.files import read_json, write_json
from data_pipeline.io.progress import say, waiting
from data_pipeline.scenes import grammar
from data_pipeline.scenes.render import render


def show(cascade: Cascade, *, count: int, seed: int) -> dict:
    """Return the first `count` held-out captions with the pictures of every stage.

    None is picked. The result also has round trips of real pictures.
    """
    shown = [grammar.sample_scene(seed, i, split="heldout") for i in range(count)]
    prompts = [grammar.caption(scene) for scene in shown]
    images = draw_captions(cascade, prompts, seed)
    recon = {}
    for name in ("base", "relay"):
        side = images[name].shape[1]
        real = np.stack([render(scene, side) for scene in shown])
        recon[str(side)] = (real, round_trip(cascade, real))
    samples = [
        {"prompt": prompt, **{stage: batch[i] for stage, batch in images.items()}}
        for i, prompt in enumerate(prompts)
    ]
    return {"samples": samples, "recon": recon}


def run(workdir: Path, *, install: float = 0.0, seed: int = 0, tiny: bool = False) -> dict:
    """Run the whole quickstart under `workdir`. Returns the content of report.json.

    Raises InputError where another process holds the workdir.
    """
    extras.check("the quickstart", "matplotlib", "tensorboardX")
    checkpoint_path(workdir, "--workdir")
    with locks.hold(workdir):
        return _run(workdir, install=install, seed=seed, tiny=tiny)


def _run(workdir: Path, *, install: float, seed: int, tiny: bool) -> dict:
    settings = {"seed": seed, "tiny": tiny}
    marker = workdir / "quickstart.json"
    if marker.exists() and (theirs := read_json(marker)) != settings:
        raise InputError(
            f"{workdir} holds a quickstart with other settings {json.dumps(theirs)}; give another"
            " --workdir"
        )
    write_json(marker, settings)
    watch = Stopwatch(workdir / "seconds.json", install)
    watch.run(
        "data",
        lambda: build_data(workdir / "data" / "train", count=64 if tiny else 10_000, seed=seed),
    )
    for stage in STAGES:
        say(f"quickstart: {stage}")
        watch.run(stage, lambda stage=stage: train_stage(stage, workdir, tiny=tiny, seed=seed))

    distilled = watch.run("distill", lambda: distil_stages(workdir, tiny=tiny, seed=seed))

    say("quickstart: samples, judged")
    watch.seconds.pop("sample", None)  # it is done again every time
    with waiting("drawing the samples and judging them"):
        figures, pictures = watch.run(
            "sample", lambda: sample(workdir, distilled, tiny=tiny, seed=seed)
        )
    seconds = {
        stage: round(watch.seconds[stage], 1)
        for stage in ("install", "data", *STAGES, "distill", "sample")
    }
    report = {
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        **figures,
        "environment": environment(),
    }
    write_json(workdir / "report.json", report)
    write_pictures(workdir, report, pictures, distilled)
    return report


def sample(
    workdir: Path, distilled: dict[str, dict], *, tiny: bool, seed: int
) -> tuple[dict, dict]:
    """Return (figures of the cascade and its distilled stages, pictures for `write_pictures`).

    The finished cascades are copied to the top of the workdir. distilled: the figures of each
    distillation.
    """
    carry_cascade(workdir / "relay" / "cascade", workdir / "cascade")
    carry_cascade(workdir / "distill_relay" / "cascade", workdir / "distilled")
    rounds = paired_rounds(workdir, distilled)
    cascade = with_rounds(load(workdir / "cascade"), rounds)
    count = 4 if tiny else 200
    judged = assess(cascade, count=count, seed=seed)
    pictures = show(cascade, count=2 if tiny else 12, seed=seed)
    ways = compared(cascade, tuple(distilled[stage]["full"] for stage in DISTILLED), list(rounds))
    figures, pictures["distilled"] = assess_distilled(cascade, ways, count=count, seed=seed)
    return judged | figures, pictures


def write_pictures(workdir: Path, report: dict, pictures: dict, distilled: dict[str, dict]) -> None:
    """Write report.html and samples.png.

    report: of report.json. pictures: of `sample`. distilled: the figures of each distillation.
    """
    curves = {stage: read_lines(workdir / stage / "metrics.jsonl") for stage in STAGES}
    for stage in DISTILLED:
        place = workdir / f"distill_{stage}"
        pictures["distilled"].setdefault("quality", {})[stage] = read_json(place / "quality.json")
        for steps, name in reversed(rounds_of(distilled[stage]).items()):
            what = f"{stage.capitalize()}, distilled to {counted(steps, 'step')}"
            curves[what] = read_lines(place / name / "metrics.jsonl")
    write_report(
        workdir / "report.html", report, curves=curves, next_steps=next_steps(workdir), **pictures
    )
    shown = pictures["samples"]
    rows = [np.stack([one[stage] for one in shown]) for stage in ("base", "relay")]
    save_png(
        workdir / "samples.png",
        contact_sheet(rows, rows=("base", "relay"), columns=[one["prompt"] for one in shown]),
    )


def carry_cascade(source: Path, target: Path) -> None:
    """Copy a finished cascade to the top of the workdir, where `sample --checkpoint` finds it."""
    _, description = cascades.read_cascade(source)
    target.mkdir(exist_ok=True)
    for part in ("vae", "t5", *description.stages):
        cascades.carry_part(source / part, target / part)
    cascades.write_cascade(target, description)
