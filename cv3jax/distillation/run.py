"""`cv3jax distill`: a trained stage in fewer steps.

Each round halves the steps of the one before; a killed one goes on where it was, a finished one is
not touched again. What it costs stands in quality.md and quality.png, what it looks like in
rounds.png.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cv3jax import recipes
from cv3jax.cascade.pipeline import Cascade
from cv3jax.checkpoints import cascades, runs
from cv3jax.distillation import build as building
from cv3jax.distillation.build import Distillation, Trained
from cv3jax.distillation.evaluation import Bench, references
from cv3jax.distillation.monitor import BEST, Watch
from cv3jax.distillation.parity import parity
from cv3jax.distillation.quality import Row, write_quality
from cv3jax.distillation.rounds import Plan, span, taught, within
from cv3jax.distributed import processes
from cv3jax.training import profiling
from cv3jax.training.loop import Cadence, train_loop
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


def run(config: ConfigDict, workdir: Path) -> dict:
    """Distil the stage `config` names under `workdir`: rounds/*/cascade has each round's weights,
    cascade the last. Returns figures.

    Raises:
        InputError: a field, file, teacher or checkpoint that does not fit; before anything is
            trained.
        NonFiniteLossError, DivergedError: a round that gets nowhere.
        StoppedError: SIGTERM or Ctrl-C came; the last step is saved.
        OSError: something could not be written; what was before it remains.
    """
    check_directory(workdir, "--workdir")
    with hold(workdir):
        work = building.build_distillation(config, workdir)
        found = [finished(work, plan, workdir) for plan in work.rounds]
        if None in found and any(found[found.index(None) :]):
            raise InputError(
                f"{workdir}: round {found.index(None) + 1} is not there, but a later one is; give a"
                " new --workdir"
            )
        begun = found[0] is not None or runs.steps(
            workdir / "rounds" / work.rounds[0].name / "checkpoints"
        )
        student = None if begun else building.find_student(work)
        if processes.main():
            for word in work.words:
                print(f"cv3jax: {config.stage}: {word}", file=sys.stderr)
        bench = make_bench(work)
        asked = {
            name: recipes.to_json(config)[name] for name in ("sample", "seed", "data", "schedule")
        } | {"w": bench.weights}
        count = config.sample.steps
        fewer = sorted({plan.steps for plan in work.rounds} - {count}, reverse=True)
        if work.teacher.w_dim:  # knows its own number of steps alone
            count, fewer = work.teacher.stage["steps"], []
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
        for plan, figures in zip(work.rounds, found, strict=True):
            place = workdir / "rounds" / plan.name
            if figures is None:
                figures = run_round(
                    work, plan, teacher, place, bench, full, student if plan.number == 1 else None
                )
            rows.append(Row(plan.steps, plan.number, figures["distance"]))
            with np.load(place / f"{BEST}.npz", allow_pickle=False) as file:
                pictures[f"{plan.steps} steps"] = file["latents"]
            picture = bench.picture(pictures)  # all processes decode
            if processes.main():
                write_quality(workdir, config.stage, count, rows, bench.weights, picture)
            teacher = Trained(place / "cascade", building.student_stage(work, plan))
            done.append({key: value for key, value in figures.items() if key != "config"})
        export(work, teacher.stage, teacher.directory / config.stage, workdir / "cascade")
    undistilled = {str(row.steps): row.distance for row in rows if row.round is None}
    return {
        "stage": config.stage,
        "full": count,
        "undistilled": undistilled,
        "rounds": done,
        "seconds": sum(one["seconds"] for one in done),
    }


def finished(work: Distillation, plan: Plan, workdir: Path) -> dict | None:
    """The figures of a finished round, None of another.

    Raises InputError where it was made from another recipe.
    """
    path = workdir / "rounds" / plan.name / FIGURES
    if not path.exists():
        return None
    figures = json.loads(path.read_text())
    facts = recipes.to_json(building.round_config(work, plan))
    if changed := [
        name
        for name in recipes.differences(facts, figures["config"])
        if not name.startswith(RESUMABLE)
    ]:
        raise InputError(
            f"{path.parent} was made with other values of {', '.join(changed)}; restore them or"
            " give a new --workdir"
        )
    return figures


def make_bench(work: Distillation) -> Bench:
    """What the rounds are looked at by."""
    description = {**work.frozen.description, "stages": {}}
    cascade = Cascade(
        description, dict(work.frozen.params), work.frozen.tokenize, within=work.deal.mesh
    )
    return Bench(cascade, work.config, work.records, work.deal.mesh)


def run_round(
    work: Distillation,
    plan: Plan,
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
    config = building.round_config(work, plan)
    facts, name = recipes.to_json(config), f"{config.stage} {plan.steps}"
    latest = processes.first("resume", lambda: check_resume(facts, place, resumable=RESUMABLE))
    stage, like = building.student_stage(work, plan), work.steps(teacher.w_dim).like
    watch = Watch(place, plan, bench, stage, full, config.distill.diverged)
    state, params = None, building.load_stage(work, teacher)
    if latest is None:
        place.mkdir(parents=True, exist_ok=True)
        state = building.create_student(
            work, plan, teacher, building.load_stage(work, student) if student else params
        )
        if student:  # has left its teacher already: there is nothing that it should be
            knows = taught(student.stage)
            watch.look(state.ema, 0, keep=bool(knows) and within(plan.w, knows))
            said = f"goes on with the student of {student.directory}"
        else:
            text = work.frozen.description["t5"]
            same = parity(
                config,
                work.deal,
                plan,
                state.params,
                params,
                teacher.w_dim,
                bench.latent,
                (text["length"], text["model"]["channels"]),
                stage["factor"],
            )
            watch.look(state.ema, 0, keep=False, parity=same)
            at = f"w drawn from {span(plan.w)}" if teacher.w_dim else "w = 1"
            said = f"student = teacher at {at}, to {same:.1g} (float32)"
        if processes.main():
            print(f"cv3jax: {name} steps: {said}", file=sys.stderr)
    params = building.as_frozen(work, params)
    every, (data, placed) = config.train, building.round_data(work, plan)
    profile = profiling.steps_of(config.profile.steps)
    cadence = Cadence(
        plan.updates,
        every.log_every,
        every.save_every,
        every.preview_every or plan.updates,
        every.keep,
        profile,
    )
    _, seconds = train_loop(
        name=f"{name} steps",
        workdir=place,
        state=state,
        like=like,
        data=data,
        place=placed,
        step_fn=building.round_step(work, plan, teacher, params),
        cadence=cadence,
        config=facts,
        preview=watch.look,
        before=sum(other.updates for other in work.rounds[: plan.number - 1]),
    )
    best = watch.best()
    if best["step"] == 0 and processes.main():
        print(
            f"cv3jax: {name} steps: no update came nearer to the full sampler; what the round began"
            " with is kept",
            file=sys.stderr,
        )
    export(work, stage, place / BEST, place / "cascade")
    figures = {
        "round": plan.number,
        "steps": plan.steps,
        "updates": plan.updates,
        "lr": plan.lr,
        "w": list(plan.w),
        "best": best["step"],
        "distance": {key: value for key, value in best.items() if key != "step"},
        "start": watch.lines()[0],
        "seconds": sum(seconds.values()),
        "seconds_by_kind": seconds,
        "config": facts,
    }
    if processes.main():
        write_json(place / FIGURES, figures)
    processes.barrier("round")
    return figures


def export(work: Distillation, stage: dict, weights: Path, target: Path) -> None:
    """The cascade at `target` with `weights` as the distilled stage, the other parts as they
    were.
    """
    if processes.main():
        target.mkdir(parents=True, exist_ok=True)
        for part, source in work.frozen.directories.items():
            cascades.carry_part(source, target / part)
        cascades.carry_part(weights, target / work.config.stage)
        stages = {**work.frozen.description["stages"], work.config.stage: stage}
        cascades.write_cascade(target, {**work.frozen.description, "stages": stages})
    processes.barrier("exported")
