"""A run's checkpoints on the machines' own disks, between those in its workdir."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from cv3jax.checkpoints import local, peer_copies, runs, sittings
from cv3jax.distributed import processes
from cv3jax.training.changes import RESUMABLE, Asked, differing
from cv3jax.training.train_settings import Local
from data_pipeline.io.bounded_json import OWN, parse_json
from data_pipeline.io.errors import first_line
from data_pipeline.io.files import check_directory
from data_pipeline.io.progress import say


class Found(NamedTuple):
    """A local checkpoint that was restored."""

    step: int
    state: Any
    data: dict  # the position of the loader
    run: dict  # what a checkpoint keeps of its run


def check_local(given: Local) -> None:
    """Raise InputError where the directory of local checkpoints cannot be written."""
    if given.every:
        check_directory(given.folder, "config.train.local_dir")


class LocalSaves:
    """The local checkpoints of one process. Without `Local.every` it does nothing.

    The newest two are kept, so that one is complete on all machines while the next is written.
    """

    def __init__(
        self, given: Local, workdir: Path, last: int, resumable: tuple[str, ...] = RESUMABLE
    ):
        """Know the run: its name, and its earlier starts. All processes call this together.

        last: the run's last step. resumable: fields that may change when it is resumed.
        """
        self._given, self._workdir, self._last = given, workdir, last
        self._resumable = resumable
        self._known = processes.first("starts", lambda: sittings.read(workdir))
        self._folder = (given.folder or workdir) / f"cv3jax-{self._known['run']}"
        self._start, self._before = "", 0
        self._running: Future | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="local-save")

    def restore(
        self, like: Any, above: int, record: dict, resume_from: int | None, free: Callable[[], None]
    ) -> Found | None:
        """Return the newest state that the disks of all machines have together, or None.

        It is newer than step `above` and not past the last. It is of the run as it is now, with its
        settings (`record`, as checkpoints keep it), and of a run that was resumed from
        `resume_from`, where that is given.
        free: called before the state is read, to give memory back. All processes call this.
        """
        if not self._given.every:
            return None
        others = []

        def accepted(kept: dict) -> bool:
            step, run = kept["step"], kept["run"]
            if not sittings.belongs(self._known, kept["start"], step):
                return False
            if resume_from is not None and run["resume_from"] != resume_from:
                return False
            if step > self._last:
                others.append(f"that of step {step} is past config.train.steps = {self._last}")
                return False
            if unlike := _differing(run, record, self._resumable):
                others.append(f"that of step {step} has another {unlike[0]}")
            return not unlike

        mine = peer_copies.find(self._folder, accepted, above)
        agreed, have = peer_copies.settle(mine, local.name_of(local.shards_of(like)))
        if processes.main() and agreed.newest != agreed.step:
            others.append(f"that of step {agreed.newest} is not whole on the disks that are here")
        if processes.main() and others:
            instead = f"step {agreed.step or above} is taken instead"
            say(f"cv3jax: local checkpoints: {'; '.join(others)}; {instead}")
        if agreed.step is None:
            return None
        place, problem = peer_copies.fetch(agreed, mine, have, self._folder)
        if problem:
            if processes.main():
                say(
                    f"cv3jax: local checkpoints: that of step {agreed.step} could not be copied"
                    f" ({problem}); step {above} is taken instead"
                )
            return None
        kept = peer_copies.record_of(place)
        data, run = processes.first("kept", lambda: [kept["data"], kept["run"]])
        free()
        return Found(agreed.step, local.load(place, like), data, run)

    def begin(self, step: int) -> None:
        """Record that the run goes on from `step`. All processes call this together."""
        if self._given.every or self._known["starts"]:
            self._start = processes.first(
                "start", lambda: sittings.begin(self._workdir, self._known, step)
            )
        if self._given.folder is not None:
            self._remove(lambda other: other != step)
        self._before = step

    def due(self, step: int) -> bool:
        """Return whether a local checkpoint is written after this step."""
        return bool(self._given.every) and step % self._given.every == 0

    def save(self, step: int, state: Any, data: Any, run: dict) -> None:
        """Write the state of `step` in the background, once all have written the one before.

        data: the loader's iterator. It returns when `state` may be donated. A disk that fails is
        told on stderr, and the run continues. All processes call this.
        """
        self.wait()
        processes.barrier("local save")
        shards = local.taken(state)
        record = {"step": step, "start": self._start, "data": data.get_state(), "run": run}
        place = self._folder / f"{step}-{self._start}-{processes.share()[0]}"
        older, self._before = self._before, step
        self._running = self._pool.submit(self._write, place, shards, record, older)

    def close(self) -> None:
        """Wait for the last write."""
        self.wait()
        self._pool.shutdown()

    def finish(self, step: int) -> None:
        """Remove the run's local checkpoints, where the workdir has that of `step`, the last.

        They go too where `Local.every` is 0 now and `Local.folder` is still given. All processes
        call this after `close`.
        """
        if self._given.every or self._known["starts"]:
            checkpoints = self._workdir / "checkpoints"
            newest = processes.first("last", lambda: runs.steps(checkpoints)[-1:])
            if self._given.folder is not None and newest == [step]:
                shutil.rmtree(self._folder, ignore_errors=True)  # another process may be faster

    def _write(self, place: Path, shards: dict, record: dict, older: int) -> None:
        try:
            local.write(place, shards, record)
        except OSError as e:
            shutil.rmtree(place.with_name(place.name + local.PARTIAL), ignore_errors=True)
            say(
                f"cv3jax: {place}: a local checkpoint could not be written ({first_line(e)}); the"
                " run continues"
            )
            return
        self._remove(lambda step: step < older)

    def _remove(self, old: Callable[[int], bool]) -> None:
        """Remove the checkpoints on this disk whose step is `old`, and nothing newer."""
        for place in self._folder.glob("[0-9]*"):
            step = place.name.partition("-")[0]
            if step.isdigit() and old(int(step)):
                shutil.rmtree(place, ignore_errors=True)  # a process beside this one may be faster

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk, or was told not to be."""
        if self._running is not None:
            self._running.result()
            self._running = None


def _differing(kept: dict, record: dict, resumable: tuple[str, ...]) -> list[str]:
    """Return the fields that differ from a checkpoint's record and may not."""
    ours, theirs = (parse_json(json.dumps(one), OWN, nan=True) for one in (record, kept))
    asked = Asked(ours.get("config", {}), ours.get("inputs", {}), resumable=resumable)
    return differing(asked, {"config": {}, **theirs})
