"""`cv3jax distill`: distil a trained stage to fewer steps.

Each round halves the steps of the round before. A killed round resumes where it was, and a finished
round is not changed. quality.md and quality.png show what it costs, rounds.png shows the pictures.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cv3jax.cascade.pipeline import Cascade
from cv3jax.checkpoints import cascades, newest
from cv3jax.checkpoints.description import StageDescription
from cv3jax.checkpoints.writing import checkpoint_path
from cv3jax.distillation import build as building
from cv3jax.distillation.build import Distillation, Trained
from cv3jax.distillation.evaluation import Bench, references
from cv3jax.distillation.heldout import RoundEvaluations
from cv3jax.distillation.monitor import BEST, Watch
from cv3jax.distillation.parity import Inputs, parity
from cv3jax.distillation.parsing import recipe_fields
from cv3jax.distillation.quality import Row, write_quality
from cv3jax.distillation.resume import (
    FIGURES,
    RESUMABLE,
    Rounds,
    distill_inputs,
    find_rounds,
    of_round,
)
from cv3jax.distillation.settings import DistillSettings, RoundSettings, span, within
from cv3jax.distillation.speed import round_speed
from cv3jax.distillation.teachers import taught
from cv3jax.distributed import hosts, processes
from cv3jax.distributed.backend import waiting
from cv3jax.recipes import Source
from cv3jax.training import heartbeat, wandb_run
from cv3jax.training.agreement import check_agreement
from cv3jax.training.assessing import announce
from cv3jax.training.changes import Asked, keep_history
from cv3jax.training.local_saves import check_local
from cv3jax.training.loop import Cadence, Work, train_loop
from cv3jax.training.readable_config import keep_config
from cv3jax.training.resume import Resumed, hold, record
from cv3jax.training.scoring import OpenScorers
from data_pipeline.io import extras
from data_pipeline.io.files import check_directory, write_json
from data_pipeline.io.progress import say


class Pending(NamedTuple):
    """What is asked of a round, where it resumes, and how it is evaluated."""

    asked: Asked
    resumed: Resumed
    evaluations: RoundEvaluations


def run(
    settings: DistillSettings,
    workdir: Path,
    allowed: tuple[str, ...] = (),
    source: Source | None = None,
    scorers: OpenScorers | None = None,
) -> dict:
    """Distil the stage of `settings` under `workdir`. Returns the figures.

    rounds/*/cascade has the weights of each round, cascade those of the last. allowed: fields that
    may differ from those of the rounds so far. source: the recipe and its overrides, for
    config.yaml. scorers: opens the metrics of train.eval_metrics.

    Raises:
        InputError: a field, file, teacher or checkpoint does not fit; raised before anything is
            trained.
        NonFiniteLossError, DivergedError: a round fails.
        StoppedError: SIGTERM or Ctrl-C came; the last step is saved.
        OSError: something could not be written; what was there before remains.
    """
    extras.check("distillation", "matplotlib", "tensorboardX")
    wandb_run.check(settings.stage.train.wandb)
    checkpoint_path(workdir, "--workdir")
    check_directory(workdir, "--workdir")
    check_local(settings.stage.train.local)
    building.check_parts(settings.stage)
    with waiting("reading what the run depends on"):
        inputs = distill_inputs(settings)  # in every process
    check_agreement(settings.stage.json, inputs, {"--allow-changed": list(allowed)})
    with hold(workdir):
        work, stage = building.build_distillation(settings, workdir), settings.stage
        asked = Asked(settings.stage.json, inputs, allowed, RESUMABLE)
        found = Rounds(*processes.first("resume", lambda: find_rounds(settings, asked, workdir)))
        if processes.main():
            keep_history(workdir, found.changes)
        resumed = [Resumed(*one) for one in found.resumed]
        student = building.find_student(work) if resumed[0].step is None else None
        if processes.main():
            for word in work.words:
                say(f"cv3jax: {stage.stage}: {word}")
        announce(stage, inputs)
        evaluations = RoundEvaluations(work, scorers)
        bench = make_bench(work)
        if processes.main():  # nothing is written before all that may be refused was looked at
            heartbeat.begin()
            fields = recipe_fields(stage.json)
            keep_config(workdir, stage.json, fields, source, found.changes)
        shown = {name: stage.json[name] for name in ("sample", "seed", "schedule")}
        shown["data"] = {name: x for name, x in stage.json["data"].items() if name != "path"}
        count = stage.sample.steps
        fewer = sorted({round.steps for round in settings.rounds} - {count}, reverse=True)
        if work.teacher.w_dim:  # it works with its own number of steps only
            count, fewer = work.teacher.stage.steps, []
        made = references(
            workdir / "references.npz",
            {**shown, "w": bench.weights, "inputs": inputs},
            bench,
            work.teacher.stage,
            lambda: building.load_stage(work, work.teacher),
            [count, *fewer],
        )
        full = made[count]
        teacher, rows = work.teacher, [Row(n, None, bench.distances(made[n], full)) for n in fewer]
        pictures, done = {f"full, {count} steps": full}, []
        for n, round in enumerate(settings.rounds):
            place, figures = workdir / "rounds" / round.name, found.figures[n]
            if figures is None:
                own = of_round(asked, settings, round.number)
                pending = Pending(own, resumed[n], evaluations)
                figures = run_round(
                    work, round, teacher, place, bench, full, None if n else student, pending
                )
            rows.append(Row(round.steps, round.number, figures["distance"]))
            hosts.bring(place / f"{BEST}.npz")
            with np.load(place / f"{BEST}.npz", allow_pickle=False) as file:
                pictures[f"{round.steps} steps"] = file["latents"]
            picture = bench.picture(pictures)  # all processes decode
            if processes.main():
                write_quality(workdir, stage.stage, count, rows, bench.weights, picture)
            teacher = Trained(place / "cascade", building.student_stage(work, round))
            kept = ("config", "inputs")  # fields that are for comparison, not for readers
            done.append({key: value for key, value in figures.items() if key not in kept})
        export(work, teacher.stage, teacher.directory / stage.stage, workdir / "cascade")
    undistilled = {str(row.steps): row.distance for row in rows if row.round is None}
    return {
        "stage": stage.stage,
        "full": count,
        "undistilled": undistilled,
        "rounds": done,
        "seconds": sum(one["seconds"] for one in done),
    }


def make_bench(work: Distillation) -> Bench:
    """Return the inputs that the rounds are evaluated on."""
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
    pending: Pending,
) -> dict:
    """Run one round under `place`, or resume it. Returns its figures.

    Its cascade holds the best weights. student: the stage whose weights it begins with; None for
    the teacher's.
    """
    hosts.bring(teacher.directory)  # the round before may have made it
    stage = work.settings.of_round(round.number).stage
    name = f"{stage.stage} {round.steps} steps"
    described = building.student_stage(work, round)
    watch = Watch(place, round, bench, described, full, work.settings.diverged)
    params = building.as_frozen(work, building.load_stage(work, teacher))

    def begin() -> Any:
        """Return the fresh state. Where a checkpoint is restored, this is not called."""
        state, said = begin_round(work, round, teacher, student, watch)
        if processes.main():
            say(f"cv3jax: {name}: {said}")
        return state

    data, placed = building.round_data(work, round)
    previews = stage.train.preview_every or round.updates
    train = dataclasses.replace(stage.train, preview_every=previews)
    cadence = Cadence.of(train, stage.profile.traced)
    step = building.round_step(work, round, teacher, params)
    aside = building.round_aside(work, round, teacher, params)
    assess = pending.evaluations.of_round(round, teacher, described, aside)
    like = work.programs(teacher.w_dim).like
    description = work.frozen.description.with_stage(stage.stage, described)
    cascade = newest.about(stage.stage, description, work.frozen.directories)
    _, seconds = train_loop(
        Work(
            name,
            like,
            data,
            placed,
            step,
            evaluate=watch.look,
            assess=assess,
            speed=round_speed(work, round, teacher),
            rate="distill.rounds",
            resumable=pending.asked.resumable,
            begin=begin,
        ),
        place,
        None,
        cadence,
        record(pending.asked, pending.resumed, cascade),
        before=sum(other.updates for other in work.settings.rounds[: round.number - 1]),
    )
    best = watch.best()
    if best["step"] == 0 and processes.main():
        say(
            f"cv3jax: {name}: no update brought the student nearer to the full sampler; the"
            " parameters from the round's start are kept"
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
        "inputs": pending.asked.inputs,
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
    watch: Watch,
) -> tuple[Any, str]:
    """Return (the round's fresh state, a message on its start), and make its first evaluation.

    Raises InputError where the student should equal its teacher and does not.
    """
    watch.directory.mkdir(parents=True, exist_ok=True)
    # in float32, for this alone: the step has the teacher in the types in which it computes
    start = building.load_stage(work, student or teacher)
    state = building.create_student(work, round, teacher, start)
    if student:  # it has been trained, so it need not equal its teacher
        knows = taught(student.stage)
        watch.look(state.ema, 0, keep=bool(knows) and within(round.w, knows))
        return state, f"continues from the student of {student.directory}"
    text, own = work.frozen.description.t5, work.settings.of_round(round.number)
    inputs = Inputs(
        watch.bench.latent,
        (text.length, text.model["channels"]),
        building.student_stage(work, round).factor,
    )
    with waiting("checking that the student equals its teacher"):
        same = parity(own, work.mesh, round, state.params, start, teacher.w_dim, inputs)
    watch.look(state.ema, 0, keep=False, parity=same)
    at = f"w drawn from {span(round.w)}" if teacher.w_dim else "w = 1"
    return state, f"the student equals its teacher at {at}, to {same:.1g} (float32)"


def export(work: Distillation, stage: StageDescription, weights: Path, target: Path) -> None:
    """Write the cascade at `target`: `weights` as the distilled stage, other parts unchanged."""
    if processes.main():
        target.mkdir(parents=True, exist_ok=True)
        for part, source in work.frozen.directories.items():
            cascades.carry_part(source, target / part)
        cascades.carry_part(weights, target / work.stage.stage)
        description = work.frozen.description.with_stage(work.stage.stage, stage)
        cascades.write_cascade(target, description)
    processes.barrier("exported")
