"""`cv3jax train`: one stage of the cascade (autoencoder, base or relay) from a recipe; an existing
workdir continues.
"""

import contextlib
import sys
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cv3jax import recipe, tracing
from cv3jax.build import build
from cv3jax.checkpoints import manifest, runs
from cv3jax.distributed import processes
from cv3jax.distributed.preemption import preemptible
from cv3jax.loop import Cadence, train_loop
from data_pipeline.io import locks
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory, check_file, write_json

EXAMPLE = (
    "cv3jax train --config=scenes_base --workdir runs/base --config.data.path=runs/scenes"
    " --config.cascade=runs/vae"
)
SHARED = 30  # seconds that a network file system takes at most to show what another machine made
RESUMABLE = (
    "train.",
    "sample.",
    "mesh.",
    "attention",
    "batch.per_device",
    "data.threads",
    "data.workers",
    "data.max_damaged",
    "init_from",
    "profile",
)


def run(config: ConfigDict, workdir: Path, resume_from: int | None = None) -> dict:
    """Train the stage `config` describes under `workdir` and leave its cascade in
    `workdir`/cascade. Returns its figures.

    It goes on from the newest checkpoint there, or from that of step `resume_from`; newer ones are
    then set aside.

    Raises:
        InputError: a field, file or checkpoint that does not fit, or another run in `workdir`;
            before anything is written.
        NonFiniteLossError: the loss or gradient became NaN or infinite.
        StoppedError: SIGTERM or Ctrl-C came; the last step is saved.
        OSError: something could not be written; the checkpoints before it remain.
    """
    check_directory(workdir, "--workdir")
    if "distill" in config:
        raise InputError("this recipe is a distillation's: cv3jax distill runs it")
    with hold(workdir):
        facts = recipe.to_json(config)
        latest = processes.first("resume", lambda: check_resume(facts, workdir, resume_from))
        stage = build(config, workdir)
        profile = tracing.steps_of(config.profile.steps) if "profile" in config else None
        tracing.check(profile)
        state = stage.create() if latest is None else None  # two states of a large model do not fit
        # a later stage that was to go on from an earlier one shows it before its hours are spent
        if latest is None and processes.main():
            print(
                f"cv3jax: {config.stage}: parameters"
                f" {f'of {config.init_from}' if config.init_from else 'from scratch'}",
                file=sys.stderr,
            )
        if latest is not None and processes.main():
            for path in runs.set_aside(workdir / "checkpoints", latest, workdir / "set_aside"):
                print(
                    f"cv3jax: going on from step {latest}; the newer checkpoint is now {path},"
                    " delete it when you like",
                    file=sys.stderr,
                )
        processes.barrier("set aside")
        every = config.train
        cadence = Cadence(
            every.steps, every.log_every, every.save_every, every.preview_every, every.keep, profile
        )
        state, seconds = train_loop(
            name=config.stage,
            workdir=workdir,
            state=state,
            like=stage.like,
            data=stage.data,
            place=stage.place,
            step_fn=stage.step,
            cadence=cadence,
            config=facts,
            preview=stage.preview(workdir / "previews"),
            resume_from=resume_from,
        )
        total = sum(seconds.values())
        figures = {
            "stage": config.stage,
            "steps": config.train.steps,
            "seconds": total,
            "goodput": seconds["step"] / total,
        }
        figures |= {
            **{f"seconds_{kind}": value for kind, value in seconds.items()},
            **stage.export(state.ema, workdir / "cascade"),
        }
    figures["parameters"] = sum(x.size for x in jax.tree.leaves(state.params))
    return figures


@contextlib.contextmanager
def hold(workdir: Path):
    """Hold `workdir` for this run: one process has the lock, the others see that it is the same
    directory.

    Raises:
        InputError: another run has it, or this process sees another directory.
    """
    with locks.hold(workdir) if processes.main() else contextlib.nullcontext():
        processes.barrier("lock")
        patience = time.monotonic() + SHARED
        while not processes.main() and not (workdir / locks.NAME).exists():
            if time.monotonic() > patience:
                raise InputError(
                    f"--workdir {workdir}: not the directory that process 0 has there; give one"
                    " that all processes share"
                )
            time.sleep(0.1)
        yield
        processes.barrier("unlock")


def check_resume(
    facts: dict,
    workdir: Path,
    resume_from: int | None = None,
    *,
    resumable: tuple[str, ...] = RESUMABLE,
) -> int | None:
    """The step to resume from: the newest there is, or `resume_from`.

    A run that has gone on from there goes on from its newest.

    Refuses to continue a run with another model, data or optimizer: the result would be neither
    run's. `resumable`: what may change.

    Raises:
        DamagedError: the checkpoint of that step is not what was written.
        InputError: the run has other settings, has no such step, or is past its last.
    """
    directory = workdir / "checkpoints"
    steps = runs.steps(directory)
    if not steps and resume_from is None:
        return None
    if resume_from is None or (steps and gone_on(directory, steps[-1], resume_from)):
        step = steps[-1]
    elif resume_from in steps:
        step = resume_from
    else:
        raise InputError(
            f"--resume_from={resume_from}: {directory} has"
            f" {'only ' + ', '.join(map(str, steps)) if steps else 'none'}"
        )
    runs.verify(directory, step)
    changed = [
        name
        for name in recipe.differences(facts, runs.run_of(directory, step)["config"])
        if not name.startswith(resumable)
    ]
    if changed:
        raise InputError(
            f"{workdir} holds a run with other values of {', '.join(changed)}; restore them or give"
            " a new --workdir"
        )
    if step > facts["train"]["steps"]:
        raise InputError(
            f"{workdir} is at step {step} already, past config.train.steps ="
            f" {facts['train']['steps']}"
        )
    return step


def gone_on(directory: Path, newest: int, resume_from: int) -> bool:
    """Whether the newest checkpoint is intact and of a run that was resumed from `resume_from`: the
    same command, given again.
    """
    return (
        not manifest.damage(directory / str(newest))
        and runs.run_of(directory, newest)["resume_from"] == resume_from
    )


def main(argv: list[str] | None = None) -> None:
    parser = recipe.parser("train", __doc__, EXAMPLE)
    parser.add_argument(
        "--resume_from",
        type=int,
        metavar="STEP",
        help="go on from this checkpoint and set newer ones aside",
    )
    processes.add_flags(parser)
    args, overrides = parser.parse_known_args(argv)
    check_file(args.json, "--json")
    processes.start(args)
    with preemptible():
        figures = run(recipe.load(args.config, overrides), args.workdir, args.resume_from)
        if processes.main():
            done = f"{figures['stage']}: {figures['steps']} steps in {figures['seconds']:.0f} s"
            print(f"{done}, checkpoint in {args.workdir}/cascade", file=sys.stderr)
            write_json(args.json, figures)


if __name__ == "__main__":
    from cv3jax.cli import run_command

    run_command(main)
