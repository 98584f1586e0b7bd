"""A run's directory whose home is a bucket: a directory on this machine's disk, and its copy there.

The run works in the local directory as in any other. A thread publishes it whenever a checkpoint, a
part or a cascade is complete, and every so often where only its log has grown.
"""

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.io.errors import InputError, first_line
from data_pipeline.io.files import read_json, replacing
from data_pipeline.io.objects import fetching, snapshots
from data_pipeline.io.objects.lease import NAME as LEASE_NAME
from data_pipeline.io.objects.lease import SECONDS, Lease
from data_pipeline.io.objects.places import mark, place_of
from data_pipeline.io.objects.sent import Sent
from data_pipeline.io.objects.store import LostError, Store, address_of
from data_pipeline.io.progress import say

LOOK = 2.0  # seconds between two looks for something complete
LOGS = 30.0  # seconds between two publications of logs alone
RACY = 2.0  # seconds after which a file's time tells whether it has changed
LEASE = "CV3JAX_LEASE_SECONDS"
STATE = "state.json"  # beside the directory to work in: which state of the bucket that is


@contextlib.contextmanager
def mirrored(
    workdir: Path, flag: str = "--workdir", *, main: bool = True, plain: bool = False
) -> Iterator[Path]:
    """Yield the directory to work in: `workdir`, or of an address its local directory.

    For an address, this process has the lease during the block. What is complete is published in
    the background, and all of it when the block ends, however it ends. main: whether this is the
    process that does so; the others only get the path. plain: for outputs: the objects have their
    files' own names, and the local directory is removed where all of it is published.

    Raises:
        InputError: another run has the lease, the address is a whole bucket, the store refuses, or
            outputs would come among somebody else's objects.
        OSError: the store fails; what was published before remains.
    """
    address = address_of(workdir)
    if address is not None and address.count("/") < 3:
        raise InputError(
            f"{flag} {address}: this is a whole bucket; give an address in it, as {address}/run"
        )
    if address is None or not main:
        yield workdir if address is None else place_of(address) / "work"
        return
    with holding(address, flag, plain=plain) as mirror:
        yield mirror.work


@contextlib.contextmanager
def holding(address: str, flag: str = "--workdir", *, plain: bool = False) -> Iterator["Mirror"]:
    """Yield what publishes an address, as `mirrored` does in the process that is `main`."""
    store = Store(address)
    lease = Lease(store, flag, lease_seconds())
    try:
        if plain:
            check_own(store, flag)
        mirror = Mirror(store, lease, plain)
        mirror.pull()
        thread = threading.Thread(target=mirror.watch, name="mirror", daemon=True)
        thread.start()
        try:
            yield mirror
        finally:
            mirror.end.set()
            thread.join()
            mirror.publish()
        if plain:
            mirror.drop()
    finally:
        lease.release()


def check_own(store: Store, flag: str) -> None:
    """Raise InputError where plain files would come among objects that are somebody else's."""
    tree = snapshots.read_tree(store)
    ours = {snapshots.NAME, LEASE_NAME} | snapshots.read_begun(store)
    if not (tree and tree[0]) and {*store.sizes("")} - ours:
        raise InputError(
            f"{flag} {store.address} holds objects that no command of cv3jax published; give a new"
            " address"
        )


def lease_seconds() -> float:
    """Return the seconds of a lease. Raises InputError where the variable has none."""
    text = os.environ.get(LEASE)
    try:
        seconds = float(text) if text else SECONDS
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise InputError(f"{LEASE}={text}: give the seconds of a lease, from 1 to 3600")
    return seconds


class Mirror:
    """The local directory of an address, and what was published of it.

    `sent`: what other machines upload of it.
    """

    def __init__(self, store: Store, lease: Lease, plain: bool):
        """Know the address, and make its place here. plain: as of `mirrored`."""
        self._store, self._lease, self._plain = store, lease, plain
        self.end, self.sent = threading.Event(), Sent()
        self._one = threading.RLock()  # a thread publishes at a time
        place = mark(store.address)
        self.work, self._staging, self._state = (
            place / name for name in ("work", "staging", STATE)
        )
        self._tree: tuple | None = None
        self._seen: tuple = ()
        self._failed = False  # to publish, the last time
        self._logs = time.monotonic()
        # name → (inode, size and time of a file when it was taken, when that was): of files that
        # are published, and of those that are about to be
        self._taken: dict[str, tuple[tuple, float]] = {}
        self._taking: dict[str, tuple[tuple, float]] = {}

    def pull(self) -> None:
        """Make the local directory what was published, unless it is that or newer already."""
        self._tree = snapshots.read_tree(self._store)
        if self._tree is not None:
            snapshots.clean(self._store, self._tree[0])  # what a killed upload left
        then = read_json(self._state).get("stamp") if self._state.exists() else None
        if self.work.exists() and then == (self._tree and self._tree[1]):
            return  # nobody else has published since
        self._state.unlink(missing_ok=True)  # it is of a whole directory
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        if self._tree is not None:
            say(f"cv3jax: fetching {self._store.address}")
            self._tree = fetching.fetch(self._store, self.work)
        self._keep()

    def watch(self) -> None:
        """Publish what becomes complete, until `end` is set or the lease is lost.

        A run whose lease is lost is asked to stop: nothing that it makes could be kept.
        """
        failed = False
        while not self.end.wait(LOOK):
            if self._lease.lost:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            try:
                if self._due():
                    self.publish()
                failed = False
            except (OSError, InputError, LostError) as e:
                if not failed:
                    say(
                        f"cv3jax: {self._store.address} was not written ({first_line(e)}); it is"
                        " tried again, and the run continues"
                    )
                failed = True

    def publish(self) -> None:
        """Publish what is complete now. Raises InputError, OSError."""
        self._lease.check()
        if self.work.exists():
            with self._one:
                self._publish()

    def below(self, name: str) -> snapshots.Files:
        """Return what is published of a file or directory, after publishing it. Raises so."""
        with self._one:
            self.publish()
            return below(self._tree[0] if self._tree else {}, name)

    def _publish(self) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)
        self._taking = {}
        if self._failed:  # a part of what failed may have been written
            self._tree = snapshots.read_tree(self._store)
        ended = self.sent.ended()  # whose files are seen now, or are no more
        digests = self._stage()
        if not digests and self._tree is None:
            return  # a run that was refused
        self._failed = True
        try:
            self._tree = snapshots.publish(
                self._store,
                self._staging,
                digests,
                self._tree,
                self._lease.check,
                plain=self._plain,
                sent=self.sent,
            )
        except LostError as e:
            raise InputError(
                f"{self._store.address}: another run has written there meanwhile; this run writes"
                " nothing more"
            ) from e
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
        self._failed = False
        self.sent.drop(ended)
        self._taken |= self._taking
        self._logs = time.monotonic()
        self._keep()

    def drop(self) -> None:
        """Remove the local directory, unless it has files that were not published."""
        published = self._tree[0] if self._tree else {}
        files = (path.relative_to(self.work) for path in self.work.rglob("*") if path.is_file())
        shown = (str(path) for path in files if not any(part[0] == "." for part in path.parts))
        if left := sorted(name for name in shown if name not in published):
            say(
                f"cv3jax: {left[0]} looks unfinished or is a link, and is not in"
                f" {self._store.address}; {self.work} is kept"
            )
        else:
            shutil.rmtree(self.work)

    def _stage(self) -> dict[str, str | None]:
        """Link or copy what is complete into the staging directory. Returns its hashes.

        Files of checkpoints and parts never change, and links keep them where the run removes them.
        Of the others, one that is as it was when it was taken last is not read again.
        """
        old = self._tree[0] if self._tree else {}
        for _ in range(100):
            try:
                found = snapshots.whole(self.work)
                for name, digest in found.items():
                    source = self.work / name
                    if digest is None and self._same(name, source) and name in old:
                        found[name] = old[name][1]
                        continue
                    target = self._staging / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if digest is None:
                        self._taking[name] = _facts(source), time.time()
                        shutil.copy2(source, target)
                    else:
                        os.link(source, target)
                self._staging.mkdir(parents=True, exist_ok=True)
                return found
            except (snapshots.MovedError, FileNotFoundError):  # something is being replaced
                shutil.rmtree(self._staging, ignore_errors=True)
                time.sleep(0.1)
        raise OSError(11, "it changes all the time", str(self.work))

    def _same(self, name: str, path: Path) -> bool:
        """Return whether a file is as it was when it was published last."""
        facts, when = self._taken.get(name, ((), 0.0))
        # a file that had just been written may have changed within the same tick of its clock
        return bool(facts) and when - facts[2] / 1e9 > RACY and facts == _facts(path)

    def _due(self) -> bool:
        """Return whether something is complete that was not, or the log is to be published."""
        try:
            found = snapshots.whole(self.work)
        except (snapshots.MovedError, FileNotFoundError):
            return False
        seen = tuple(sorted(name for name, digest in found.items() if digest))
        if seen != self._seen:
            self._seen = seen
            return True
        return time.monotonic() - self._logs > LOGS

    def _keep(self) -> None:
        """Note which state of the bucket the local directory is, or is ahead of."""
        with replacing(self._state) as temporary:
            temporary.write_text(json.dumps({"stamp": self._tree and self._tree[1]}))


def below(files: snapshots.Files, name: str) -> snapshots.Files:
    """Return the entry of a file, or those of the files in a directory."""
    return {one: x for one, x in files.items() if one == name or one.startswith(f"{name}/")}


def _facts(path: Path) -> tuple[int, int, int]:
    """Return a file's inode, size and time of change."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
