"""Hash a save by all processes: each one hashes what it writes, and begins before the last file.

orbax gives each process a directory of its own for its arrays. A process hashes the files there and
brings them to the disk. Process 0 hashes the few files of all, and writes the manifest last.
"""

import os
import stat
import threading
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import multihost

from cv3jax.checkpoints import manifest
from cv3jax.checkpoints.writing import PATIENCE, UNFINISHED, check_parts
from cv3jax.distributed import processes

LOOK = 0.2  # seconds between two looks for files that are complete
WRITTEN = "async_write_complete"  # in the name of orbax's barrier after all processes have written
LOCKED = ".__lock"  # how the names of files end that tensorstore still writes


class Signer:
    """Hashes and signs saves in one directory, one at a time."""

    def __init__(self, directory: Path, pattern: str):
        """Take the directory and the pattern of the names of its saves."""
        self._directory, self._pattern = directory, pattern
        self._known: dict[tuple, manifest.Entry] = {}  # (name, time, size) → entry
        self._entries: dict[str, manifest.Entry] = {}  # of all processes, for the manifest
        self._end = threading.Event()
        self._ahead: threading.Thread | None = None

    def options(self) -> ocp.options.AsyncOptions:
        """Return the options with which orbax saves in the background and calls this object."""
        return ocp.options.AsyncOptions(
            timeout_secs=PATIENCE,
            barrier_sync_fn=self._barrier,
            post_finalization_callback=self._sign,
        )

    def begin(self) -> None:
        """Begin to hash what this process writes, until the save that follows is complete."""
        self._stop()
        self._known, self._entries = {}, {}
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
        """Have each process hash its files before orbax may know that they are complete."""
        if WRITTEN in key and processes.peers():
            self._stop()
            own = {name: one for place in self._places() for name, one in self._hash(place).items()}
            for theirs in processes.gather("signed", own):
                self._entries |= {name: (size, digest) for name, (size, digest) in theirs.items()}
        multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)

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

    def _hash(self, place: Path, ahead: bool = False) -> dict[str, manifest.Entry]:
        """Return name → entry of the files that this process writes to `place`.

        ahead: only of those that are complete while others are not. A file that is hashed is not
        hashed again unless it has changed.
        """
        found, fresh = {}, {}
        for path in place.rglob(f"ocdbt.process_{jax.process_index()}/**/*"):
            try:
                about = os.stat(path)
            except FileNotFoundError:  # it was renamed
                continue
            # the index beside the data is written again and again
            if ahead and (path.parent.name != "d" or path.name.endswith(LOCKED)):
                continue
            if stat.S_ISREG(about.st_mode):
                name = str(path.relative_to(place)).replace(UNFINISHED, "")
                found[name] = (name, about.st_mtime_ns, about.st_size)
                if found[name] not in self._known:
                    fresh[name] = path
        hashed = manifest.settled(fresh)
        self._known |= {found[name]: entry for name, entry in hashed.items()}
        return {name: self._known[key] for name, key in found.items()}
