"""Which checkpoint a run resumes from, and one run at a time in a workdir."""

import contextlib
import time
from pathlib import Path

from cv3jax import recipes
from cv3jax.checkpoints import manifest, runs
from cv3jax.distributed import processes
from data_pipeline.io import locks
from data_pipeline.io.errors import InputError

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
    recipe: dict,
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
        for name in recipes.differences(recipe, runs.run_of(directory, step)["config"])
        if not name.startswith(resumable)
    ]
    if changed:
        raise InputError(
            f"{workdir} holds a run with other values of {', '.join(changed)}; restore them or give"
            " a new --workdir"
        )
    if step > recipe["train"]["steps"]:
        raise InputError(
            f"{workdir} is at step {step} already, past config.train.steps ="
            f" {recipe['train']['steps']}"
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
