"""`cv3jax distill`: a trained stage in fewer steps.

Each round halves the steps of the one before; a killed one goes on where it was, a finished one is
not touched again. What it costs stands in quality.md and quality.png, what it looks like in
rounds.png.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cv3jax import recipes
from cv3jax.cascade.pipeline import Cascade
from cv3jax.checkpoints import cascades, runs
from cv3jax.checkpoints.description import StageDescription
from cv3jax.checkpoints.writing import checkpoint_path
from cv3jax.distillation import build as building
from cv3jax.distillation.build import Distillation, Trained
from cv3jax.distillation.evaluation import Bench, references
from cv3jax.distillation.monitor import BEST, Watch
from cv3jax.distillation.parity import Inputs, parity
from cv3jax.distillation.quality import Row, write_quality
from cv3jax.distillation.settings import DistillSettings, RoundSettings, span, within
from cv3jax.distillation.teachers import taught
from cv3jax.distributed import processes
from cv3jax.training import profiling
from cv3jax.training.loop import Cadence, Work, train_loop
from cv3jax.training.resume import check_resume, hold
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory, write_json

RESUMABLE = (
    "train.",
    "mesh.",
    "attention",
    "batch.per_device",
    "data.threads",
    "data.workers",
    "data.max_damaged",
    "profile",
    "distill.student",
)
FIGURES = "figures.json"


def run(settings: DistillSettings, workdir: Path) -> dict:
    """Distil the stage that `settings` name under `workdir`. Returns figures.

    rounds/*/cascade has each round's weights, cascade the last.

    Raises:
        InputError: a field, file, teacher or checkpoint that does not fit; before anything is
            trained.
        NonFiniteLossError, DivergedError: a round that gets nowhere.
        StoppedError: SIGTERM or Ctrl-C came; the last step is saved.
        OSError: something could not be written; what was before it remains.
    """
    checkpoint_path(workdir, "--workdir")
    check_directory(workdir, "--workdir")
    with hold(workdir):
        work, stage = building.build_distillation(settings, workdir), settings.stage
        found = [finished(work, round, workdir) for round in settings.rounds]
        if None in found and any(found[found.index(None) :]):
            raise InputError(
                f"{workdir}: round {found.index(None) + 1} is not there, but a later one is; give a"
                " new --workdir"
            )
        begun = found[0] is not None or runs.steps(
            workdir / "rounds" / settings.rounds[0].name / "checkpoints"
        )
        student = None if begun else building.find_student(work)
        if processes.main():
            for word in work.words:
                print(f"cv3jax: {stage.stage}: {word}", file=sys.stderr)
        bench = make_bench(work)
        asked = {name: stage.json[name] for name in ("sample", "seed", "data", "schedule")} | {
            "w": bench.weights
        }
        count = stage.sample.steps
        fewer = sorted({round.steps for round in settings.rounds} - {count}, reverse=True)
        if work.teacher.w_dim:  # knows its own number of steps alone
            count, fewer = work.teacher.stage.steps, []
        made = references(
            workdir / "references.npz",
            {**asked, "teacher": str(work.teacher.directory.absolute())},
            bench,
            work.teacher.stage,
            lambda: building.load_stage(work, work.teacher),
            [count, *fewer],
        )
        full = made[count]
        teacher, rows = work.teacher, [Row(n, None, bench.distances(made[n], full)) for n in fewer]
        pictures, done = {f"full, {count} steps": full}, []
        for round, figures in zip(settings.rounds, found, strict=True):
            place = workdir / "rounds" / round.name
            if figures is None:
                figures = run_round(
                    work, round, teacher, place, bench, full, student if round.number == 1 else None
                )
            rows.append(Row(round.steps, round.number, figures["distance"]))
            with np.load(place / f"{BEST}.npz", allow_pickle=False) as file:
                pictures[f"{round.steps} steps"] = file["latents"]
            picture = bench.picture(pictures)  # all processes decode
            if processes.main():
                write_quality(workdir, stage.stage, count, rows, bench.weights, picture)
            teacher = Trained(place / "cascade", building.student_stage(work, round))
            done.append({key: value for key, value in figures.items() if key != "config"})
        export(work, teacher.stage, teacher.directory / stage.stage, workdir / "cascade")
    undistilled = {str(row.steps): row.distance for row in rows if row.round is None}
    return {
        "stage": stage.stage,
        "full": count,
        "undistilled": undistilled,
        "rounds": done,
        "seconds": sum(one["seconds"] for one in done),
    }


def finished(work: Distillation, round: RoundSettings, workdir: Path) -> dict | None:
    """The figures of a finished round, None of another.

    Raises InputError where it was made from another recipe.
    """
    path = workdir / "rounds" / round.name / FIGURES
    if not path.exists():
        return None
    figures = json.loads(path.read_text())
    recipe = work.settings.of_round(round.number).stage.json
    if changed := [
        name
        for name in recipes.differences(recipe, figures["config"])
        if not name.startswith(RESUMABLE)
    ]:
        raise InputError(
            f"{path.parent} was made with other values of {', '.join(changed)}; restore them or"
            " give a new --workdir"
        )
    return figures


def make_bench(work: Distillation) -> Bench:
    """What the rounds are looked at by."""
    description = dataclasses.replace(work.frozen.description, stages={})
    cascade = Cascade(
        description, dict(work.frozen.params), work.frozen.tokenize, within=work.mesh.mesh
    )
    return Bench(cascade, work.settings, work.records, work.mesh.mesh)


def run_round(
    work: Distillation,
    round: RoundSettings,
    teacher: Trained,
    place: Path,
    bench: Bench,
    full: np.ndarray,
    student: Trained | None,
) -> dict:
    """One round under `place`, from where it was; its cascade holds the best weights.

    Returns its figures.

    student: whose weights begin it; None: the teacher's.
    """
    stage = work.settings.of_round(round.number).stage
    name = f"{stage.stage} {round.steps} steps"
    latest = processes.first("resume", lambda: check_resume(stage.json, place, resumable=RESUMABLE))
    described = building.student_stage(work, round)
    watch = Watch(place, round, bench, described, full, work.settings.diverged)
    state, params = None, building.load_stage(work, teacher)
    if latest is None:
        state, said = begin_round(work, round, teacher, student, params, watch)
        if processes.main():
            print(f"cv3jax: {name}: {said}", file=sys.stderr)
    params = building.as_frozen(work, params)
    data, placed = building.round_data(work, round)
    previews = stage.train.preview_every or round.updates
    train = dataclasses.replace(stage.train, preview_every=previews)
    cadence = Cadence.of(train, profiling.steps_of(stage.profile.steps))
    step = building.round_step(work, round, teacher, params)
    like = work.programs(teacher.w_dim).like
    _, seconds = train_loop(
        Work(name, like, data, placed, step, watch.look),
        place,
        state,
        cadence,
        stage.json,
        before=sum(other.updates for other in work.settings.rounds[: round.number - 1]),
    )
    best = watch.best()
    if best["step"] == 0 and processes.main():
        print(
            f"cv3jax: {name}: no update came nearer to the full sampler; what the round began"
            " with is kept",
            file=sys.stderr,
        )
    export(work, described, place / BEST, place / "cascade")
    figures = {
        "round": round.number,
        "steps": round.steps,
        "updates": round.updates,
        "lr": round.lr,
        "w": list(round.w),
        "best": best["step"],
        "distance": {key: value for key, value in best.items() if key != "step"},
        "start": watch.lines()[0],
        "seconds": sum(seconds.values()),
        "seconds_by_kind": seconds,
        "config": stage.json,
    }
    if processes.main():
        write_json(place / FIGURES, figures)
    processes.barrier("round")
    return figures


def begin_round(
    work: Distillation,
    round: RoundSettings,
    teacher: Trained,
    student: Trained | None,
    params: Any,
    watch: Watch,
) -> tuple[Any, str]:
    """(the round's fresh state, what it begins with in words); its first evaluation is made.

    params: the teacher's. Raises InputError where the student is not its teacher, as it should be.
    """
    watch.directory.mkdir(parents=True, exist_ok=True)
    start = building.load_stage(work, student) if student else params
    state = building.create_student(work, round, teacher, start)
    if student:  # has left its teacher already: there is nothing that it should be
        knows = taught(student.stage)
        watch.look(state.ema, 0, keep=bool(knows) and within(round.w, knows))
        return state, f"goes on with the student of {student.directory}"
    text, own = work.frozen.description.t5, work.settings.of_round(round.number)
    inputs = Inputs(
        watch.bench.latent,
        (text.length, text.model["channels"]),
        building.student_stage(work, round).factor,
    )
    same = parity(own, work.mesh, round, state.params, params, teacher.w_dim, inputs)
    watch.look(state.ema, 0, keep=False, parity=same)
    at = f"w drawn from {span(round.w)}" if teacher.w_dim else "w = 1"
    return state, f"student = teacher at {at}, to {same:.1g} (float32)"


def export(work: Distillation, stage: StageDescription, weights: Path, target: Path) -> None:
    """The cascade at `target` with `weights` as the distilled stage, the other parts as they
    were.
    """
    if processes.main():
        target.mkdir(parents=True, exist_ok=True)
        for part, source in work.frozen.directories.items():
            cascades.carry_part(source, target / part)
        cascades.carry_part(weights, target / work.stage.stage)
        description = work.frozen.description.with_stage(work.stage.stage, stage)
        cascades.write_cascade(target, description)
    processes.barrier("exported")
