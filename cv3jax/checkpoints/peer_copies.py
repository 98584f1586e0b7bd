"""Local checkpoints of all machines together: which step all can have, and copies between them.

Each process needs its own shards of a state. A checkpoint on the disk of any process has them, if
it was made by a process that held the same ones: the same process, or a replica. A process without
gets a copy over the devices' network, onto its own disk.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cv3jax.checkpoints import local
from cv3jax.distributed import processes
from data_pipeline.io.errors import first_line

PIECE = 2**26  # bytes of a copy that travel at a time


class Copy(NamedTuple):
    """A checkpoint on this machine's disk."""

    step: int
    shards: str  # the name of the set that it has (`local.name_of`)
    place: Path


def find(folder: Path, accepted: Callable[[dict], bool], above: int) -> list[Copy]:
    """Return the checkpoints in `folder` of steps after `above` whose record is `accepted`."""
    found = []
    for place in sorted(folder.glob("[0-9]*")):
        step = place.name.partition("-")[0]
        if step.isdigit() and int(step) > above and place.is_dir():
            read = local.read_index(place)
            if read is not None and accepted(read[1]) and read[1]["step"] == int(step):
                found.append(Copy(int(step), local.name_of(read[0]), place))
    return found


class Agreed(NamedTuple):
    """The step that all processes resume from, and who has what."""

    step: int | None  # None: no local checkpoint is of use
    newest: int | None  # of all steps that any disk has
    needs: list[str]  # of each process, the name of its set of shards
    holders: dict[str, int]  # the name of each set → the first process that has it


def agree(mine: list[Copy], need: str) -> Agreed:
    """Return the newest step at which every process's shards are on some disk.

    mine: the checkpoints of this process; need: the name of its set. All processes call this.
    """
    told = processes.gather("local", [need, [[copy.step, copy.shards] for copy in mine]])
    needs = [theirs[0] for theirs in told]
    steps = sorted({step for _, copies in told for step, _ in copies}, reverse=True)
    newest = next(iter(steps), None)
    for step in steps:
        holders: dict[str, int] = {}
        for index, (_, copies) in enumerate(told):
            for at, shards in copies:
                if at == step:
                    holders.setdefault(shards, index)
        if set(needs) <= holders.keys():
            return Agreed(step, newest, needs, holders)
    return Agreed(None, newest, needs, {})


def settle(mine: list[Copy], need: str) -> tuple[Agreed, Path | None]:
    """Return what all agree on, and the place of this process's checkpoint of that step.

    The place is None where another process has it. Every byte is read once, and a damaged
    checkpoint counts as missing. All processes call this.
    """
    mine, tried = list(mine), set()
    while True:
        agreed = agree(mine, need)
        if agreed.step is None:
            return agreed, None
        index = processes.share()[0]
        used = [
            copy
            for copy in mine
            if copy.step == agreed.step
            and (copy.shards == need or agreed.holders.get(copy.shards) == index)
        ]
        bad = [copy for copy in used if copy.place not in tried and not local.intact(copy.place)]
        tried |= {copy.place for copy in used}
        mine = [copy for copy in mine if copy not in bad]
        if not any(processes.gather("intact", bool(bad))):
            return agreed, next((copy.place for copy in used if copy.shards == need), None)


class _Disk:
    """Runs what may fail on this machine's disk, until the first error.

    The error is kept and not raised: the other processes still wait for what comes next.
    """

    def __init__(self):
        self.error: OSError | None = None

    def __call__(self, function: Callable, *args: Any, **options: Any) -> Any:
        """Return what the function returns; None after an error."""
        if self.error is None:
            try:
                return function(*args, **options)
            except OSError as e:
                self.error = e
        return None


def fetch(
    agreed: Agreed, mine: list[Copy], have: Path | None, folder: Path
) -> tuple[Path | None, str | None]:
    """Return (the place of this process's checkpoint of the agreed step, None).

    It is copied where this process lacks it. Where the disk of any process fails meanwhile, such as
    a full one, all get (None, the process and its error). All processes call this. A copy crosses
    the network once for all who lack it.
    """
    disk = _Disk()
    index, _ = processes.share()
    lacking = processes.gather("lacking", have is None)
    wanted = {agreed.needs[i] for i, lacks in enumerate(lacking) if lacks}
    for shards in sorted(wanted):
        holder = agreed.holders[shards] == index
        take = have is None and agreed.needs[index] == shards
        source = next(
            (copy.place for copy in mine if (copy.step, copy.shards) == (agreed.step, shards)), None
        )
        target = folder / f"{agreed.step}-copy-{index}"
        partial = target.with_name(target.name + local.PARTIAL)
        if take:
            shutil.rmtree(partial, ignore_errors=True)
            disk(partial.mkdir, parents=True)
        for name in (local.SHARDS, local.INDEX):
            _send(source / name if holder else None, partial / name if take else None, disk)
        if take:
            shutil.rmtree(target, ignore_errors=True)
            have = disk(partial.rename, target)
            shutil.rmtree(partial, ignore_errors=True)  # of a disk that failed
    problem = f"process {index}: {first_line(disk.error)}" if disk.error else None
    if problem := next(filter(None, processes.gather("copied", problem)), None):
        return None, problem
    return have, None


def _send(source: Path | None, target: Path | None, disk: _Disk) -> None:
    """Copy the file of the one process that gives a `source` to those that give a `target`.

    All processes call this, and go on to its end where their disk fails.
    """
    from jax.experimental import multihost_utils

    def all_get(values: np.ndarray) -> np.ndarray:
        # a sum of whole numbers with zeros, which changes no bit
        sent = multihost_utils.broadcast_one_to_all(values, is_source=source is not None)
        return np.asarray(jax.device_get(sent))

    size = (disk(os.path.getsize, source) or 0) if source else 0
    left = int(all_get(np.array([size >> 20, size % 2**20], np.uint32)) @ [2**20, 1])
    read, written = source and disk(source.open, "rb"), target and disk(target.open, "wb")
    try:
        while left > 0:
            piece = np.zeros(PIECE // 4, np.uint32)
            if read:
                data = disk(read.read, PIECE) or b""
                piece.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
            got = all_get(piece).view(np.uint8)[: min(left, PIECE)]
            if written:
                disk(written.write, got.tobytes())
            left -= PIECE
        if written:
            disk(written.flush)
    finally:
        for file in filter(None, (read, written)):
            with contextlib.suppress(OSError):  # of what was not flushed, which is told already
                file.close()


def record_of(place: Path) -> dict[str, Any]:
    """Return the record of the checkpoint at `place`, which was found to be intact."""
    return local.read_index(place)[1]
