"""`cv3jax quickstart`: the whole system on one CPU. Renders captioned scenes, trains autoencoder,
base and relay, distils both, and shows what they make of captions they never saw, in one report.
Killed and started again it continues.
"""

import datetime
import functools
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from cv3jax import recipes
from cv3jax.cascade.pipeline import Cascade, load
from cv3jax.checkpoints import cascades, runs
from cv3jax.distillation import run as distilling
from cv3jax.distillation.parsing import parse_distillation
from cv3jax.evaluation.distilled_scenes import assess_distilled, compared, with_rounds
from cv3jax.evaluation.scenes import assess, draw, round_trip
from cv3jax.quickstart.report import write_report
from cv3jax.quickstart.stopwatch import Stopwatch
from cv3jax.reports.pictures import contact_sheet, save_png
from cv3jax.training import run as training
from cv3jax.training.metrics import read_lines
from cv3jax.training.parsing import parse_stage
from data_pipeline.io import locks
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import read_facts, write_json
from data_pipeline.scenes import dataset, grammar
from data_pipeline.scenes.render import render

STAGES = ("vae", "base", "relay")
DISTILLED = {"base": "relay", "relay": "distill_base"}  # stage → in whose cascade it is distilled


def build_data(directory: Path, *, count: int, seed: int) -> None:
    """Records of training scenes, unless they are there already.

    Held-out ones are drawn when they are judged.
    """
    if not directory.exists():
        dataset.build(directory, count, seed, "train")


def small_recipe(
    name: str, workdir: Path, cascade: str | None, *, tiny: bool, seed: int
) -> tuple[str, list[str]]:
    """(the recipe of a step of this run, its overrides), as `recipes.load` takes them.

    Its frozen parts are those of `cascade`, a directory of `workdir`.
    """
    fields = [f"seed={seed}", f"data.path={workdir / 'data' / 'train'}"]
    fields += [f"cascade={workdir / cascade}"] if cascade else []
    # the least that can be judged, the relay's at twice the zoom
    fields += ["data.image_size=64"] if tiny and cascade else []
    return f"scenes_{name}{':tiny' if tiny else ''}", [f"--config.{field}" for field in fields]


def finish(place: Path, work: Callable[[Path], dict]) -> dict:
    """The figures of `work(place)`, which is done once: a finished one is not touched again,
    another goes on.
    """
    finished = place / "figures.json"
    if finished.exists():
        return read_facts(finished)
    try:
        figures = work(place)
    except runs.DamagedError as e:
        older = (
            f"it goes on from step {e.intact}" if e.intact is not None else "the stage starts anew"
        )
        raise InputError(f"{e.what}; restore the file, or remove that directory and {older}") from e
    write_json(finished, figures)
    return figures


def train_stage(stage: str, workdir: Path, *, tiny: bool, seed: int) -> dict:
    """Train one stage from its recipe. Returns its figures."""
    before = dict(zip(STAGES, (None, *STAGES), strict=False))[stage]
    name, fields = small_recipe(stage, workdir, before, tiny=tiny, seed=seed)
    fields += [f"--config.init_from={workdir / 'base'}"] if stage == "relay" else []
    settings = parse_stage(recipes.load(name, fields))
    return finish(workdir / stage, lambda place: training.run(settings, place))


def distil_stages(workdir: Path, *, tiny: bool, seed: int) -> dict[str, dict]:
    """Distil base and relay from their recipes. Returns the figures of each."""
    figures = {}
    for stage, cascade in DISTILLED.items():
        print(f"quickstart: {stage}, distilled", file=sys.stderr)
        name, fields = small_recipe(f"distill_{stage}", workdir, cascade, tiny=tiny, seed=seed)
        settings = parse_distillation(recipes.load(name, fields))
        figures[stage] = finish(
            workdir / f"distill_{stage}", functools.partial(distilling.run, settings)
        )
    return figures


def rounds_of(figures: dict) -> dict[int, str]:
    """Steps → the directory of that round, the last round first, from the figures of a
    distillation.
    """
    return {
        one["steps"]: f"rounds/{one['round']}_{one['steps']}_steps"
        for one in reversed(figures["rounds"])
    }


def paired_rounds(
    workdir: Path, figures: dict[str, dict]
) -> dict[tuple[int, int], tuple[Path, Path]]:
    """(base steps, relay steps) → the cascades of those rounds, the last of both together, and
    those before them. The last comes last.
    """
    both = [
        [
            (steps, workdir / f"distill_{stage}" / place / "cascade")
            for steps, place in rounds_of(figures[stage]).items()
        ]
        for stage in DISTILLED
    ]
    return {(b, r): (base, relay) for (b, base), (r, relay) in list(zip(*both, strict=True))[::-1]}


def show(cascade: Cascade, *, count: int, seed: int) -> dict:
    """The first `count` held-out captions with the pictures of every stage, none picked, and round
    trips of real pictures.
    """
    shown = [grammar.sample_scene(seed, i, split="heldout") for i in range(count)]
    prompts = [grammar.caption(scene) for scene in shown]
    images = draw(cascade, prompts, seed)
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


def environment() -> dict:
    """Hardware, versions and date, for the report."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "machine": (
            f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind} ×"
            f" {jax.device_count()}"
        ),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def run(workdir: Path, *, install: float = 0.0, seed: int = 0, tiny: bool = False) -> dict:
    """The whole quickstart under `workdir`. Returns what report.json holds.

    Raises InputError where another process is at it.
    """
    with locks.hold(workdir):
        return _run(workdir, install=install, seed=seed, tiny=tiny)


def _run(workdir: Path, *, install: float, seed: int, tiny: bool) -> dict:
    settings = {"seed": seed, "tiny": tiny}
    marker = workdir / "quickstart.json"
    if marker.exists() and (theirs := read_facts(marker)) != settings:
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
        print(f"quickstart: {stage}", file=sys.stderr)
        watch.run(stage, lambda stage=stage: train_stage(stage, workdir, tiny=tiny, seed=seed))

    distilled = watch.run("distill", lambda: distil_stages(workdir, tiny=tiny, seed=seed))

    def sample():
        carry_cascade(workdir / "relay" / "cascade", workdir / "cascade")
        carry_cascade(workdir / "distill_relay" / "cascade", workdir / "distilled")
        rounds = paired_rounds(workdir, distilled)
        cascade = with_rounds(load(workdir / "cascade"), rounds)
        count = 4 if tiny else 200
        judged, pictures = (
            assess(cascade, count=count, seed=seed),
            show(cascade, count=2 if tiny else 12, seed=seed),
        )
        ways = compared(
            cascade, tuple(distilled[stage]["full"] for stage in DISTILLED), list(rounds)
        )
        figures, pictures["distilled"] = assess_distilled(cascade, ways, count=count, seed=seed)
        return judged | figures, pictures

    print("quickstart: samples, judged", file=sys.stderr)
    watch.seconds.pop("sample", None)  # it is done anew every time
    figures, pictures = watch.run("sample", sample)
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
    curves = {stage: read_lines(workdir / stage / "metrics.jsonl") for stage in STAGES}
    for stage in DISTILLED:
        place = workdir / f"distill_{stage}"
        pictures["distilled"].setdefault("quality", {})[stage] = read_facts(place / "quality.json")
        for steps, name in reversed(rounds_of(distilled[stage]).items()):
            what = f"{stage.capitalize()}, distilled to {steps} step{'s' if steps > 1 else ''}"
            curves[what] = read_lines(place / name / "metrics.jsonl")
    write_report(
        workdir / "report.html", report, curves=curves, next_steps=next_steps(workdir), **pictures
    )
    shown = pictures["samples"]
    rows = [np.stack([sample[stage] for sample in shown]) for stage in ("base", "relay")]
    save_png(
        workdir / "samples.png",
        contact_sheet(rows, rows=("base", "relay"), columns=[sample["prompt"] for sample in shown]),
    )
    return report


def next_steps(workdir: Path) -> list[tuple[str, str]]:
    """What a reader of the report may want to do next: (what, command)."""
    here, distilled = shlex.quote(str(workdir)), shlex.quote(str(workdir / "distilled"))
    prompt = (
        "a small green star on the left and a large purple circle on the right, black background"
    )
    mine = "--config.data.path=runs/mine/data"
    return [
        (
            "Draw what you like, in the words of the captions above.",
            f'cv3jax sample --checkpoint {here} --num 4 --out runs/mine --prompt "{prompt}"',
        ),
        (
            (
                "Other numbers of base and relay steps, and another guidance weight, to see what"
                " they do."
            ),
            (
                f"cv3jax sample --checkpoint {here} --steps 20,10 --guidance 3 --out runs/mine"
                f' --prompt "{prompt}"'
            ),
        ),
        (
            (
                "The same in the fewest steps, by the distilled stages. They are told the guidance"
                " weight and do not run twice for it."
            ),
            f'cv3jax sample --checkpoint {distilled} --num 4 --out runs/fast --prompt "{prompt}"',
        ),
        (
            "Pack your own pictures: a folder with a .txt beside each, or img2dataset tars.",
            "cv3jax data pack --source pictures/ --out runs/mine/data",
        ),
        (
            "Train the three stages on them.",
            (
                f"cv3jax train --config=scenes_vae --workdir runs/mine/vae {mine}\ncv3jax train"
                f" --config=scenes_base --workdir runs/mine/base {mine}"
                " --config.cascade=runs/mine/vae\ncv3jax train --config=scenes_relay --workdir"
                f" runs/mine/relay {mine} --config.cascade=runs/mine/base"
                " --config.init_from=runs/mine/base"
            ),
        ),
        (
            "Distil what came of it: base, then relay, which ends up with both.",
            (
                f"cv3jax distill --config=scenes_distill_base --workdir runs/mine/fast_base {mine}"
                " --config.cascade=runs/mine/relay\ncv3jax distill --config=scenes_distill_relay"
                f" --workdir runs/mine/fast {mine} --config.cascade=runs/mine/fast_base"
            ),
        ),
    ]


def carry_cascade(source: Path, target: Path) -> None:
    """The finished cascade at the top of the workdir, where `sample --checkpoint` looks for it."""
    _, description = cascades.read_cascade(source)
    target.mkdir(exist_ok=True)
    for part in ("vae", "t5", *description["stages"]):
        cascades.carry_part(source / part, target / part)
    cascades.write_cascade(target, description)
