"""A run's resumable checkpoints: train state, data position, recipe and times, in one directory.

A checkpoint gets its manifest (the SHA-256 of every file) before it gets its name. So a killed save
leaves the previous checkpoint, and damage is noticed before anything is read.
"""

import contextlib
import dataclasses
import shutil
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from cv3jax.checkpoints import manifest
from cv3jax.checkpoints.signing import Signer
from cv3jax.checkpoints.writing import (
    MISMATCH,
    UNFINISHED,
    checkpoint_path,
    os_error,
    remove_unfinished,
)
from cv3jax.distributed import hosts, processes
from data_pipeline.io.bounded_json import OWN, ParseError, load_json
from data_pipeline.io.errors import InputError, first_line, machine_error
from data_pipeline.io.objects.store import address_of

if TYPE_CHECKING:  # not part of a plain install, which reads checkpoints and writes none
    import grain


_SIGNERS: weakref.WeakKeyDictionary[ocp.CheckpointManager, Signer] = weakref.WeakKeyDictionary()


class DamagedError(InputError):
    """A checkpoint is not what was written.

    `path` is its directory, `what` the message without advice, `intact` the newest whole step.
    """

    def __init__(self, path: Path, problem: str, intact: int | None):
        """Make the message from what is wrong and the newest step that is intact."""
        self.path, self.what, self.intact = path, f"checkpoint {path} is damaged: {problem}", intact
        older = (
            "give a new --workdir (no older checkpoint is intact)"
            if intact is None
            else f"give --resume-from={intact} to resume from that older checkpoint"
        )
        super().__init__(f"{self.what}; restore the file, or {older}")


@dataclasses.dataclass(frozen=True)
class Kept(policies.PreservationPolicy):
    """Keep the checkpoint of the step that `step()` returns when another one is saved."""

    step: Callable[[], int | None]

    def should_preserve(self, checkpoints: Sequence, *, context: Any) -> list[bool]:
        """Return whether each of the checkpoints stays."""
        kept = self.step()
        return [one.step == kept for one in checkpoints]


def open_manager(
    directory: str | Path,
    keep: int = 2,
    keep_every: int = 0,
    best: Callable[[], int | None] = lambda: None,
) -> ocp.CheckpointManager:
    """Open the checkpoints under `directory`. Close the manager when done.

    It keeps the newest `keep` of them, those of every multiple of `keep_every` steps, and that of
    the step `best()`. Saves run in the background.
    """
    path = checkpoint_path(directory)
    signer = Signer(path, "[0-9]*", steps=True)
    kept = [policies.LatestN(keep), Kept(best)]
    kept += [policies.EveryNSteps(keep_every)] if keep_every else []
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(kept),
        create=True,
        async_options=signer.options(),
    )
    manager = ocp.CheckpointManager(path, options=options, item_names=("state", "data", "run"))
    _SIGNERS[manager] = signer
    return manager


def steps(directory: str | Path) -> list[int]:
    """Return the steps of the complete checkpoints under `directory`, oldest first.

    They are sorted by name; the times of the files do not matter.
    """
    return sorted(
        int(path.name)
        for path in Path(directory).glob("[0-9]*")
        if path.name.isdigit() and path.is_dir()
    )


def remove_old(
    directory: str | Path, keep: int, keep_every: int = 0, best: int | None = None
) -> None:
    """Remove all checkpoints that `open_manager` would not keep.

    A kill may have come when one of them was half removed. best: the step of the best one.
    """
    for step in steps(directory)[:-keep]:
        if step != best and (not keep_every or step % keep_every):
            shutil.rmtree(Path(directory) / str(step))


def settle(
    directory: str | Path, keep: int, keep_every: int = 0, best: int | None = None
) -> int | None:
    """Do `remove_old` in process 0, and return the newest step there; all processes call it.

    Where hosts are apart, the others remove the checkpoints that process 0 does not have.
    """

    def left() -> list[int]:
        remove_old(directory, keep, keep_every, best)
        return steps(directory)

    there = processes.first("old", left)
    if hosts.leads() and not processes.main():
        for step in {*steps(directory)} - {*there}:
            shutil.rmtree(Path(directory) / str(step))
    processes.barrier("settled")
    return there[-1] if there else None


def save(
    manager: ocp.CheckpointManager,
    step: int,
    state: Any,
    data: "grain.DatasetIterator",
    run: dict,
) -> None:
    """Save train state, data position and `run` (JSON: the config, seconds so far) as `step`.

    Returns once `state` may be donated. All processes call it. The data position is the same for
    all of them, and for any number of them.

    Raises:
        OSError: this checkpoint or the one before it could not be written; the message says which
            remain.
    """
    items = {
        "state": ocp.args.StandardSave(state),
        "data": ocp.args.JsonSave(data.get_state()),
        "run": ocp.args.JsonSave(run),
    }
    with _writing(manager):
        manager.wait_until_finished()
        _SIGNERS[manager].begin(f"{step}{UNFINISHED}/state{UNFINISHED}")
        manager.save(step, args=ocp.args.Composite(**items), force=True)


def check_saved(manager: ocp.CheckpointManager) -> None:
    """Raise what `save` would if the save in the background has failed meanwhile.

    It does not wait for a save that still runs.
    """
    if not manager.is_saving_in_progress():
        finish(manager)


def finish(manager: ocp.CheckpointManager) -> None:
    """Wait for the save in the background. Raises as `save` does."""
    with _writing(manager):
        manager.wait_until_finished()


@contextlib.contextmanager
def _writing(manager: ocp.CheckpointManager):
    try:
        yield
    except (OSError, ValueError) as e:
        reason = os_error(e)
        if reason is None:
            raise
        directory = Path(manager.directory)
        remove_unfinished(directory, quiet=0.5)  # a full disk has no room for them
        left = steps(directory)
        kept = (
            f"the checkpoint of step {left[-1]} remains" if left else "there is no checkpoint yet"
        )
        if hosts.apart(directory):
            kept = "the newest whole one remains"
        room = "" if address_of(str(reason.filename)) else "free some disk space and "
        line = (
            f"a checkpoint could not be written ({reason.strerror}), {kept}; {room}run the same"
            " command to resume"
        )
        raise OSError(reason.errno, line, str(directory)) from e


def damage(directory: str | Path, step: int) -> str | None:
    """Return how the checkpoint of `step` differs from what was written, or None.

    All processes call this together, and each reads its share of the files, or none where it does
    not see them.
    """
    apart = hosts.apart(Path(directory))
    share = apart.reading() if apart else processes.share()
    problem = share and manifest.damage(Path(directory) / str(step), share)
    return next(filter(None, processes.gather("damage", problem)), None)


def verify(directory: str | Path, step: int, known: dict[int, str | None] | None = None) -> None:
    """Raise DamagedError unless the checkpoint of `step` is as it was written.

    The error names the damaged file and the newest older step that is intact. known: step → what
    `damage` has found already.
    """
    directory = Path(directory)
    known = known or {}
    if problem := known[step] if step in known else manifest.damage(directory / str(step)):
        older = (
            s
            for s in reversed(steps(directory))
            if s < step and manifest.damage(directory / str(s)) is None
        )
        raise DamagedError(directory / str(step), problem, next(older, None))


def set_aside(directory: str | Path, step: int, target: Path) -> list[Path]:
    """Move the checkpoints newer than `step` into `target`. Returns their new places."""
    moved = []
    for newer in (s for s in steps(directory) if s > step):
        target.mkdir(exist_ok=True)
        names = (target / (f"{newer}" if n == 0 else f"{newer}.{n}") for n in range(10_000))
        place = next(path for path in names if not path.exists())
        moved.append((Path(directory) / str(newer)).rename(place))
    return moved


def run_of(directory: str | Path, step: int) -> dict:
    """Return the `run` section of the checkpoint of `step` under `directory`.

    Raises InputError where it cannot be read.
    """
    place = Path(directory) / str(step) / "run"
    try:
        value = _read_json(place)
    except (ParseError, StopIteration) as e:
        raise InputError(f"{place} is damaged ({e or 'there is no file'}); restore it") from e
    if not isinstance(value, dict) or not isinstance(value.get("config", {}), dict):
        raise InputError(f"{place} is damaged: it does not describe a run; restore it")
    return value


def restore(
    manager: ocp.CheckpointManager, step: int, like: Any, data: "grain.DatasetIterator"
) -> Any:
    """Return the state of `step`, placed as `like`, and set `data` to its position.

    like: ShapeDtypeStructs with shardings of any mesh. Call `verify` first, because some damage
    would come back as other numbers.

    Raises:
        InputError: the checkpoint belongs to another model.
    """
    try:
        state = manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
        ).state
        data.set_state(_read_json(Path(manager.directory) / str(step) / "data"))
        data.start_prefetch()
        return state
    except MISMATCH as e:
        where = Path(manager.directory) / str(step)
        raise (
            machine_error(e, where)
            or InputError(
                f"checkpoint {where} does not fit this model ({first_line(e)}); give a new"
                " --workdir"
            )
        ) from e


def _read_json(directory: Path) -> dict:
    """Return what orbax saved as JSON; older checkpoints have it under another name."""
    names = ("metadata", "process_0-of-1.json")
    path = next(directory / name for name in names if (directory / name).is_file())
    return load_json(path, OWN, nan=True)
