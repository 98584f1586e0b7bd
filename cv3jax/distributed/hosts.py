"""Hosts that do not see one directory: the files of a run in a bucket, between their disks.

Each host works in a directory of its own. What process 0 has, the others fetch where they need it
(`bring`). What the others write of a save goes to the bucket (`Hosts.send`), and process 0 fetches
it (`Hosts.collect`). So process 0 has all of the run, and publishes it as a run of one host does.
"""

import concurrent.futures
import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from cv3jax.distributed import processes
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.objects import fetching, snapshots
from data_pipeline.io.objects.mirror import STATE, Mirror, below
from data_pipeline.io.objects.places import mark, new_version, place_of
from data_pipeline.io.objects.store import Store
from data_pipeline.io.progress import say

TOKEN = "process-"  # begins the name of a file by which processes find who sees their directory
_hosts: "Hosts | None" = None


class Hosts:
    """This process's place among hosts of which not all see process 0's directory.

    Attributes:
        address: of the run.
        near: whether this process sees it.
        leads: whether this process is the first of those that see its own directory.
        saved: whether the run has a checkpoint.
    """

    def __init__(self, address: str, mirror: Mirror | None, leaders: list[int], version: str):
        """Know the run. mirror: process 0's. leaders: of each process, who leads its directory."""
        index = processes.share()[0]
        self.near, self.leads = leaders[index] == 0, leaders[index] == index
        self.saved, self.address = False, address
        self.work = place_of(address) / "work"
        self._near = [i for i, leader in enumerate(leaders) if leader == 0]
        self._store, self._mirror = Store(address), mirror
        self._version, self._saves = version, 0

    def reading(self) -> tuple[int, int] | None:
        """Return (i, n): this process reads the i-th of n parts of what process 0 has, or None."""
        index = processes.share()[0]
        return (self._near.index(index), len(self._near)) if self.near else None

    def prune(self) -> None:
        """Remove what this directory has of other states of the run."""
        tree = snapshots.read_tree(self._store)
        named = tree[0] if tree else {}
        for place, folders, names in os.walk(self.work, topdown=False):
            here = Path(place)
            for name in (*names, *(one for one in folders if (here / one).is_symlink())):
                if str((here / name).relative_to(self.work)) not in named:
                    (here / name).unlink()
            with contextlib.suppress(OSError):  # not empty
                here.rmdir()

    def bring(self, path: Path) -> None:
        """Make a file or directory of the run what process 0 has; all processes call it.

        Raises InputError and OSError as reading from the store does.
        """
        name = str(path.relative_to(self.work))

        def offered() -> str:
            return snapshots.digest_of(self._mirror.below(name))

        digest = processes.first("offered", offered)
        if self.leads and not self.near:
            self._fetch(name, digest)
        processes.barrier("brought")

    def _fetch(self, name: str, digest: str) -> None:
        tree = snapshots.read_tree(self._store)
        files = below(tree[0] if tree else {}, name)
        if snapshots.digest_of(files) != digest:
            raise InputError(
                f"{self._store.address}: {name} is not what process 0 published; another run"
                " writes there"
            )
        for path in (self.work / name).rglob("*"):
            if not path.is_dir() and str(path.relative_to(self.work)) not in files:
                path.unlink()
        fetching.fetch_files(self._store, self.work, files)

    def begin(self) -> str:
        """Return the place of the next save in the bucket; all processes call it in one order."""
        self._saves += 1
        place = f"{self._version}/{self._saves}"
        if self._mirror:
            self._mirror.sent.begin(place)
        return place

    def send(self, place: str, folder: Path, files: snapshots.Files) -> snapshots.Files:
        """Upload files of a save, several at a time. Returns them; raises OSError, InputError.

        A process that sees process 0's directory uploads none.
        """
        if self.near:
            return {}
        with concurrent.futures.ThreadPoolExecutor(snapshots.AT_ONCE) as pool:
            snapshots.send(self._store, folder, files, pool, place)
        return files

    def collect(self, place: str, folder: Path, files: snapshots.Files) -> None:
        """Fetch into process 0's directory what the others have sent. Raises OSError, InputError.

        Publishing will name what is in the bucket already.
        """
        fetching.fetch_files(self._store, folder, files)
        for name in files:
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())
        self._mirror.sent.add(place, files)

    def end(self, place: str) -> None:
        """Note that the save at a place has its name, or has failed."""
        if self._mirror:
            self._mirror.sent.end(place)


@contextlib.contextmanager
def sharing(address: str, mirror: Mirror | None, saved: Callable[[], bool]) -> Iterator[None]:
    """Find who sees whose directory of an address, and serve a run whose hosts are apart.

    All processes call it, when process 0 has its directory. mirror: process 0's. saved() says there
    whether the run has a checkpoint. Raises InputError and OSError as the store does.
    """
    global _hosts
    leaders = _leaders(place_of(address)) if processes.peers() else [0]
    if not any(leaders):
        yield
        return
    version = processes.first("version", new_version)
    _hosts = made = Hosts(address, mirror, leaders, version)
    try:
        made.saved = processes.first("saved", saved)
        if made.leads and not made.near:
            # what is left here will be no state of the run that could be published
            (mark(address) / STATE).unlink(missing_ok=True)
            made.prune()
        if processes.main():
            others = counted(len({*leaders} - {0}), "host")
            say(f"cv3jax: {others} without process 0's directory: files travel through {address}")
        processes.barrier("pruned")
        yield
    finally:
        _hosts = None


def _leaders(place: Path) -> list[int]:
    """Return, of each process, the first that sees the same directory at its `place`."""
    index, token = processes.share()[0], uuid.uuid4().hex
    own = place / f"{TOKEN}{index}"
    place.mkdir(parents=True, exist_ok=True)
    own.write_text(token)
    tokens = processes.gather("token", token)
    seen = (i for i, one in enumerate(tokens) if _reads(place / f"{TOKEN}{i}", one))
    leaders = processes.gather("leader", next(seen))
    own.unlink()
    for i in range(len(leaders)):  # a network file system may show some of the files late
        while leaders[leaders[i]] != leaders[i]:
            leaders[i] = leaders[leaders[i]]
    return leaders


def _reads(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except FileNotFoundError:
        return False


def apart(path: Path) -> Hosts | None:
    """Return the hosts between which the files below `path` travel, or None where all see them."""
    return _hosts if _hosts and path.is_relative_to(_hosts.work) else None


def bring(path: Path) -> None:
    """Have all processes see what process 0 has at `path`; all call it. Raises as `Hosts.bring`."""
    if made := apart(path):
        made.bring(path)


def leads() -> bool:
    """Return whether this process is the one that uses its directory for those that see it."""
    return _hosts.leads if _hosts else processes.main()


def saved() -> bool:
    """Return whether a run whose hosts are apart has a checkpoint."""
    return bool(_hosts and _hosts.saved)
