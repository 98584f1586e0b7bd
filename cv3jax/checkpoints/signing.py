"""Hash a save by all processes: each one hashes what it writes, and begins before the last file.

orbax gives each process a directory of its own for its arrays. A process hashes the files there and
brings them to the disk. Process 0 hashes the few files of all, and writes the manifest last. Where
a process does not see process 0's directory, its files reach that before (`distributed.hosts`).
"""

import errno
import os
import shutil
import stat
import threading
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import multihost

from cv3jax.checkpoints import manifest
from cv3jax.checkpoints.writing import PATIENCE, UNFINISHED, check_parts
from cv3jax.distributed import hosts, processes
from data_pipeline.io.errors import InputError, first_line

LOOK = 0.2  # seconds between two looks for files that are complete
# in the names of orbax's barriers: after all processes have written, after the renaming, and, of a
# run's checkpoints, where a save begins and where it has ended or failed
WRITTEN, COMMITTED, TURN = "async_write_complete", "async_commit_complete", "set_value_start"
SMALL = "array_metadatas"  # of a tree, where orbax has a small file of each process
LOCKED = ".__lock"  # how the names of files end that tensorstore still writes


class Signer:
    """Hashes and signs saves in one directory, one at a time."""

    def __init__(self, directory: Path, pattern: str, *, steps: bool = False):
        """Take the directory and the pattern of the names of its saves.

        steps: whether they are a run's checkpoints, of which a newer one replaces older ones.
        """
        self._directory, self._pattern, self._steps = directory, pattern, steps
        self._known: dict[tuple, manifest.Entry] = {}  # (name, time, size) → entry
        self._entries: dict[str, manifest.Entry] = {}  # of all processes, for the manifest
        self._end = threading.Event()
        self._ahead: threading.Thread | None = None
        self._hosts: hosts.Hosts | None = None  # where they are apart
        self._place = ""  # of this save in the bucket
        self._name = f"{directory.name}/{pattern}"  # of what the processes tell each other
        self._turns, self._done = 0, ""  # of this save; the last of its barriers that is over

    def options(self) -> ocp.options.AsyncOptions:
        """Return the options with which orbax saves in the background and calls this object."""
        return ocp.options.AsyncOptions(
            timeout_secs=PATIENCE,
            barrier_sync_fn=self._barrier,
            post_finalization_callback=self._sign,
        )

    def begin(self, tree: str = "") -> None:
        """Begin to hash what this process writes, until the save that follows is complete.

        tree: where below the directory the save has its arrays, while it is unfinished.
        """
        self._stop()
        self._known, self._entries = {}, {}
        self._turns, self._done = 0, ""
        self._forget()
        if (made := hosts.apart(self._directory)) is not None:
            self._hosts, self._place = made, made.begin()
            if not made.near:  # orbax has process 0 make these directories, and waits for them
                (self._directory / tree / SMALL).mkdir(parents=True, exist_ok=True)
        self._end.clear()
        self._ahead = threading.Thread(target=self._look_ahead, name="hashing", daemon=True)
        self._ahead.start()

    def _look_ahead(self) -> None:
        while not self._end.wait(LOOK):
            try:
                for place in self._places():
                    self._hash(place, ahead=True)
            except OSError:  # the save fails, and tells why
                return

    def _stop(self) -> None:
        if self._ahead is not None:
            self._end.set()
            self._ahead.join()
            self._ahead = None

    def _barrier(self, *, key: str, timeout_ms: int) -> None:
        """Have each process hash its files before orbax may know that they are complete.

        Where a process has failed, the others would wait at a barrier that it does not reach. They
        raise OSError instead.
        """
        if processes.peers():
            self._turns += TURN in key
            over, index = TURN in key and self._turns == 2, processes.share()[0]
            failed = [errno.EIO, f"process {index} could not write its part", str(self._directory)]
            if WRITTEN in key or (over and not self._done):
                self._share(failed if over else None)
            if COMMITTED in key or (over and index == 0 and self._done == WRITTEN):
                self._commit(failed if over else None)
        multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)

    def _share(self, failed: list | None) -> None:
        """Bring hashes, and files where hosts are apart, to process 0.

        failed: why this process has nothing to bring. Raises OSError in all others where one has
        failed, or fails here.
        """
        self._stop()
        own, sent, problem = {}, {}, failed
        try:
            for place in () if failed else self._places():
                own |= self._hash(place)
            if self._hosts and not failed:
                sent = self._hosts.send(self._place, self._directory, self._files())
        except (OSError, InputError) as e:
            problem = _described(e, self._hosts.address if self._hosts else "")
        told = processes.gather(f"signed {self._name}", [own, sent, problem])
        problem = next((theirs for *_, theirs in told if theirs), None)
        for theirs, _, _ in told:
            self._entries |= {name: (size, digest) for name, (size, digest) in theirs.items()}
        if self._hosts and not problem:
            problem = self._collect([files for _, files, _ in told])
        self._done = COMMITTED if problem else WRITTEN
        if problem:
            self._forget()
        if problem and not failed:
            raise OSError(*problem)

    def _commit(self, failed: list | None) -> None:
        """Have all know that process 0 has renamed the save. Raises OSError where it `failed`."""
        self._done = COMMITTED
        problem = processes.first(f"committed {self._name}", lambda: failed)
        if self._hosts and not problem:
            self._hosts.saved |= self._steps
        self._forget()
        if problem and not failed:
            raise OSError(*problem)

    def _collect(self, sent: list[dict[str, list]]) -> list | None:
        """Have process 0 fetch what others have sent. Returns what failed, in all processes."""

        def fetch() -> list | None:
            try:
                for files in sent:
                    self._hosts.collect(self._place, self._directory, files)
            except (OSError, InputError) as e:
                return _described(e, self._hosts.address)
            return None

        return processes.first(f"collected {self._name}", fetch)

    def _forget(self) -> None:
        """End a save, if any. Where hosts are apart, its files are process 0's alone then."""
        made, self._hosts = self._hosts, None
        if made is None:
            return
        made.end(self._place)
        if made.leads and not made.near:
            old = self._directory.glob("[0-9]*") if self._steps else []
            for place in (*self._places(), *old):
                shutil.rmtree(place, ignore_errors=True)

    def _sign(self) -> None:
        """Write the manifest of a finished save, which is about to get its name.

        Raises OSError where the checkpoint could not be read again.
        """
        self._stop()
        if jax.process_index() != 0:
            return
        for place in self._places():
            for tree in place.rglob("_METADATA"):
                check_parts(tree.parent)
            manifest.write(place, {**self._entries, **self._hash(place)})

    def _places(self) -> list[Path]:
        return list(self._directory.glob(f"{self._pattern}{UNFINISHED}"))

    def _files(self) -> dict[str, list]:
        """Return path below the directory → [size, SHA-256, object] of what this process wrote."""
        return {
            str(path.relative_to(self._directory)): [*self._known[key], f"{self._place}/{key[0]}"]
            for place in self._places()
            for path, key in self._own(place).items()
        }

    def _own(self, place: Path, ahead: bool = False) -> dict[Path, tuple]:
        """Return path → (name, time, size) of the files that this process writes to `place`.

        ahead: only of those that are complete while others are not.
        """
        index, found = jax.process_index(), {}
        paths = place.rglob(f"ocdbt.process_{index}/**/*")
        if self._hosts and not ahead:
            paths = (*paths, *place.rglob(f"{SMALL}/process_{index}"))
        for path in paths:
            try:
                about = os.stat(path)
            except FileNotFoundError:  # it was renamed
                continue
            # the index beside the data is written again and again
            if ahead and (path.parent.name != "d" or path.name.endswith(LOCKED)):
                continue
            if stat.S_ISREG(about.st_mode):
                name = str(path.relative_to(place)).replace(UNFINISHED, "")
                found[path] = (name, about.st_mtime_ns, about.st_size)
        return found

    def _hash(self, place: Path, ahead: bool = False) -> dict[str, manifest.Entry]:
        """Return name → entry of the files that this process writes to `place`.

        ahead: as of `_own`. A file that is hashed is not hashed again unless it has changed.
        """
        found = {key[0]: (path, key) for path, key in self._own(place, ahead).items()}
        fresh = {name: path for name, (path, key) in found.items() if key not in self._known}
        hashed = manifest.settled(fresh)
        self._known |= {found[name][1]: entry for name, entry in hashed.items()}
        return {name: self._known[key] for name, (_, key) in found.items()}


def _described(e: OSError | InputError, address: str = "") -> list:
    """Return the arguments of the OSError that says it in another process.

    address: of the store, which alone raises InputError.
    """
    if isinstance(e, OSError) and e.errno:
        return [e.errno, e.strerror or first_line(e), str(e.filename or "")]
    return [errno.EIO, first_line(e), address]
