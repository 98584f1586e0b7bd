"""Find the checkpoint from which a run resumes, and let one run at a time use a workdir."""

import contextlib
import time
from pathlib import Path
from typing import Any, NamedTuple

from cv3jax.checkpoints import manifest, runs
from cv3jax.distributed import hosts, processes
from cv3jax.training import heartbeat
from cv3jax.training.changes import Asked, check_changes, merged, read_history
from data_pipeline.io import locks
from data_pipeline.io.errors import InputError

SHARED = 30  # seconds that a network file system takes at most to show what another machine made


class Resumed(NamedTuple):
    """Where a run resumes."""

    step: int | None  # of the checkpoint; None: from the beginning
    changes: list[dict]  # all changes that were allowed so far (`changes.check_changes`)


@contextlib.contextmanager
def hold(workdir: Path):
    """Hold `workdir` for this run: one process has the lock, the others check the directory.

    Where hosts are apart, one process of each has the lock of its own directory.

    Raises:
        InputError: another run holds it, or this process sees another directory.
    """
    with locks.hold(workdir) if hosts.leads() else contextlib.nullcontext():
        processes.barrier("lock")
        patience = time.monotonic() + SHARED
        while not hosts.leads() and not (workdir / locks.NAME).exists():
            if time.monotonic() > patience:
                raise InputError(
                    f"--workdir {workdir}: this is not the directory that process 0 sees there;"
                    " give one that all processes share"
                )
            time.sleep(0.1)
        with heartbeat.beating(workdir) if processes.main() else contextlib.nullcontext():
            yield
        processes.barrier("unlock")


def check_resume(
    asked: Asked,
    workdir: Path,
    resume_from: int | None = None,
    history: list[dict] | None = None,
    known: dict[int, str | None] | None = None,
) -> Resumed:
    """Return the step to resume from, and what has changed since.

    It is the newest step, or `resume_from`. A run that has resumed from `resume_from` before
    resumes from its newest step. history: the changes that were allowed so far (default: those of
    `workdir`). known: step → the damage that `look` has found.

    A run does not continue with another model, data or optimizer where that was not allowed,
    because the result would be that of neither run.

    Raises:
        DamagedError: the checkpoint of that step is not what was written.
        InputError: the run has other settings or data, has no such step, or is past its last.
    """
    directory = workdir / "checkpoints"
    steps = runs.steps(directory)
    history = read_history(workdir) if history is None else history
    if not steps and resume_from is None:
        return Resumed(None, history)
    known = known or {}
    if resume_from is None or (steps and has_resumed(directory, steps[-1], resume_from, known)):
        step = steps[-1]
    elif resume_from in steps:
        step = resume_from
    else:
        raise InputError(
            f"--resume-from={resume_from}: {directory} has no such checkpoint; give one of"
            f" {', '.join(map(str, steps))}"
            if steps
            else f"--resume-from={resume_from}: {directory} has no checkpoint; leave it out"
        )
    runs.verify(directory, step, known)
    then = runs.run_of(directory, step)
    history = merged(then.get("changes", []), history)
    changes = check_changes(asked, then, step, history, f"{workdir} holds a run with")
    last = asked.recipe["train"]["steps"]
    if step > last:
        raise InputError(
            f"{workdir} is at step {step} already, past config.train.steps = {last}; give a larger"
            " one, or a new --workdir"
        )
    return Resumed(step, merged(history, changes))


def record(asked: Asked, resumed: Resumed, cascade: dict[str, Any]) -> dict[str, Any]:
    """Return what each checkpoint keeps of its run, besides the loop's own figures.

    cascade: what the run's cascade is, as `checkpoints.newest` reads it.
    """
    return {
        "config": asked.recipe,
        "inputs": asked.inputs,
        "changes": resumed.changes,
        "cascade": cascade,
    }


def look(workdir: Path) -> dict[int, str | None]:
    """Return {the newest step: how its checkpoint is damaged, or None}, or {} without a checkpoint.

    All processes call this together, and share the reading.
    """
    directory = workdir / "checkpoints"
    newest = processes.first("newest", lambda: runs.steps(directory)[-1:])
    return {step: runs.damage(directory, step) for step in newest}


def has_resumed(
    directory: Path, newest: int, resume_from: int, known: dict[int, str | None]
) -> bool:
    """Return whether the newest checkpoint belongs to a run resumed from `resume_from`.

    Then the same command was given again. The checkpoint must be intact. known: as of
    `check_resume`.
    """
    damaged = known[newest] if newest in known else manifest.damage(directory / str(newest))
    return not damaged and runs.run_of(directory, newest)["resume_from"] == resume_from
