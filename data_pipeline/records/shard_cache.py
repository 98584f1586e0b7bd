"""Files of a bucket on this host's disk, at most so many bytes of them, for all of its processes.

The directory is `cv3jax-shards` in the one that the user gives. It has a folder for each dataset,
and three of its own:

    about/     what is beside the shards of each dataset; it is neither counted nor removed
    locks/     files that are locked while a file is fetched, or while room is made
    users/     one file for each process: the names of what it reads now

Only folders and files with names of the cache's own form are counted and removed. A file appears
under its name when it is whole. To make room, the files that were opened least recently are
removed, and those that a process reads now only where there are no others. Whoever has a removed
file open goes on reading it. The kernel drops the locks of a process that ends, so what a killed
one left is found and removed.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import re
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipeline.io import locks
from data_pipeline.io.errors import naming
from data_pipeline.io.progress import say

FOLDER = "cv3jax-shards"  # in data.cache_dir
LOCKS, USERS, ABOUT, PARTIAL = "locks", "users", "about", ".partial"
SHARD = re.compile(r"[^/]+\.array_record-\d{5,}-of-\d{5,}")
DATASET = re.compile(r"[0-9a-f]{12}-[0-9a-f]{12}")  # of its address, and of its version
_HELD = re.compile(rf"{SHARD.pattern}(?:\.(\d+){re.escape(PARTIAL)})?")  # bytes, if under way
_USER = re.compile(r"\d+-[0-9a-f]{8}")
_STRIPES = 512  # locks that files share
_TRIES = 3  # of a download that ends early


class ShardCache:
    """The files of `folder`, at most `most` bytes of them. Safe to use from many threads.

    `readers` are told of each file that was removed (`removed(path)`), so that they close it.
    """

    def __init__(self, folder: Path, most: int):
        """Use a folder, which is made where there is none; `shared` calls this. Raises OSError."""
        self.folder, self.most = folder, most
        with naming(folder):
            (folder / LOCKS).mkdir(parents=True, exist_ok=True)
            (folder / USERS).mkdir(exist_ok=True)
        self._guard, self._user, self._warned = threading.Lock(), None, False
        self._uses: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        self.readers: weakref.WeakSet[Any] = weakref.WeakSet()

    def __reduce__(self):
        """Return how to use the folder from another process."""
        return shared, (self.folder, self.most)

    def use(self, dataset: str, now: Iterable[Path], then: Iterable[Path]) -> None:
        """Keep the files of a dataset that this process reads `now`, and `then` those it can keep.

        It replaces what was said of that dataset before. Raises OSError.
        """
        with self._guard, naming(self.folder), self.locked("room"):
            both = (frozenset(map(self._name, now)), frozenset(map(self._name, then)))
            self._uses = {**self._uses, dataset: both}
            if self._user is None:
                self._user = (self.folder / USERS / f"{os.getpid()}-{uuid.uuid4().hex[:8]}").open(
                    "w"
                )
                locks.take(self._user.fileno(), Path(self._user.name))
            self._user.seek(0)
            self._user.truncate()
            self._user.write("\n".join(sorted(self._own(0))))
            self._user.flush()

    def get(
        self, path: Path, size: int, download: Callable[[Path], None], *, ahead: bool = False
    ) -> bool:
        """Have the file at `path`, of `size` bytes, which `download` writes to another path.

        ahead: return False, instead of waiting, where another thread or process fetches it or
            there is no room. Otherwise the result is True.

        Raises:
            OSError: the store or the disk fails, or the file is larger than the cache.
        """
        if self._has(path, size, touch=not ahead):
            return True
        with naming(path), self.locked(_stripe(path), wait=not ahead) as held:
            if not held:
                return False
            if self._has(path, size):
                return True
            partial = path.with_name(f"{path.name}.{size}{PARTIAL}")
            if not self._reserve(partial, size, ahead):
                return False
            try:
                _download(download, partial, size)
                with self.locked("room"):  # or whoever counts sees both names, or neither
                    partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return True

    def get_about(self, path: Path, size: int, download: Callable[[Path], None]) -> None:
        """Have a file of `about/` at `path`, for which no room is made.

        The rest is as in `get`. Raises OSError.
        """
        if self._has(path, size, touch=False):
            return
        with naming(path), self.locked(ABOUT):
            if self._has(path, size, touch=False):
                return
            partial = path.with_name(f"{path.name}{PARTIAL}")
            try:
                _download(download, partial, size)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def used(self) -> frozenset[str]:
        """Return the names of what the processes of this host use now. Raises OSError."""
        with self.locked("room"):
            return self._own(0) | self._others()

    def held(self) -> int:
        """Return the bytes of all files, those under way included."""
        return sum(size for _, size, _ in self._files())

    def _reserve(self, partial: Path, size: int, ahead: bool) -> bool:
        """Make room for a file and take it by the empty `partial`. False: there is none ahead."""
        while True:
            with self.locked("room"):
                if self._make_room(size, ahead):
                    partial.touch()
                    return True
            if ahead:
                return False
            if size > self.most:
                line = f"{partial.name} is larger than the cache; raise data.cache_gb"
                raise OSError(errno.ENOSPC, line, str(self.folder))
            time.sleep(0.1)  # files that are under way cannot be removed

    def _make_room(self, size: int, ahead: bool) -> bool:
        """Remove files until `size` bytes are free; return whether they are.

        Those that nobody reads now or then go first, then those that are read then, and each time
        the least recently used. A file that is read now goes last, and never for one that is
        fetched ahead. Without that, processes of a run could wait for each other.
        """
        files = self._files()
        excess = sum(each for _, each, _ in files) + size - self.most
        if excess <= 0:
            return True
        now, then = self._own(0) | self._others(), self._own(1)

        def worth(file: tuple[float, int, Path]) -> tuple[bool, bool, float]:
            name = self._name(file[2])
            return name in now, name in then, file[0]

        free = sorted(files, key=worth)
        if ahead:
            free = [file for file in free if not any(worth(file)[:2])]
        if sum(each for _, each, _ in free) < excess:
            return False
        for _, each, path in free:
            if path.suffix == PARTIAL:
                final = path.with_name(path.name.removesuffix(PARTIAL).rpartition(".")[0])
                with self.locked(_stripe(final), wait=False) as stale:
                    if not stale:
                        continue
                    path.unlink(missing_ok=True)  # a killed process left it
            else:
                if self._name(path) in now:
                    self._warn()
                path.unlink(missing_ok=True)
                for reader in list(self.readers):
                    reader.removed(path)
            excess -= each
            if excess <= 0:
                return True
        return False

    def _warn(self) -> None:
        """Say once that a file that is read now had to go."""
        if not self._warned:
            self._warned = True
            say(
                f"cv3jax: data.cache_gb = {self.most / 1e9:g} is too little for the shards that the"
                " processes of this host read at a time: some are fetched more than once"
            )

    def _files(self) -> list[tuple[float, int, Path]]:
        """Return (time of the last use, bytes, path) of all files of all datasets."""
        found = []
        for folder in self.folder.iterdir():
            if not DATASET.fullmatch(folder.name) or not folder.is_dir():
                continue
            for entry in os.scandir(folder):
                form = _HELD.fullmatch(entry.name)
                if not form or not entry.is_file(follow_symlinks=False):
                    continue
                with contextlib.suppress(FileNotFoundError):  # removed or renamed meanwhile
                    about = entry.stat()
                    found.append((about.st_mtime, int(form[1] or about.st_size), Path(entry.path)))
        return found

    def _own(self, which: int) -> frozenset[str]:
        """Return the names of the files that this process reads now (0) or then (1)."""
        return frozenset().union(*(both[which] for both in self._uses.values()))

    def _others(self) -> frozenset[str]:
        """Return the names of the files that other processes of this host read now."""
        used: set[str] = set()
        for path in (self.folder / USERS).iterdir():
            if not _USER.fullmatch(path.name):
                continue
            if self._user is not None and path.name == Path(self._user.name).name:
                continue
            with path.open("r+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    used.update(file.read().splitlines())
                else:
                    path.unlink(missing_ok=True)  # its process has ended
        return frozenset(used)

    def _has(self, path: Path, size: int, touch: bool = True) -> bool:
        try:
            if path.stat().st_size != size:
                return False
            if touch:
                os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _name(self, path: Path) -> str:
        return f"{path.parent.name}/{path.name}"

    @contextlib.contextmanager
    def locked(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold a lock during the block, or yield False where another has it and `wait` is not."""
        with (self.folder / LOCKS / name).open("a") as file:
            if wait:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield wait or locks.take(file.fileno(), Path(file.name))


@functools.lru_cache(8)
def shared(folder: Path, most: int) -> ShardCache:
    """Return the cache of a folder, one for all datasets of a process. Raises OSError."""
    return ShardCache(folder, most)


def _stripe(path: Path) -> str:
    """Return the name of the lock of a file, which it may share with others."""
    digest = hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest()
    return f"{int.from_bytes(digest[:4]) % _STRIPES}"


def _download(download: Callable[[Path], None], partial: Path, size: int) -> None:
    """Download a file, again where it came short."""
    for _ in range(_TRIES):
        download(partial)
        if (found := partial.stat().st_size) == size:
            return
    line = f"{partial.name}: the store sent {found:,} of {size:,} bytes"
    raise OSError(errno.EIO, line, str(partial))
