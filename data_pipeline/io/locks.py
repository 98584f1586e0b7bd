"""Locks that let one run at a time use a directory.

The kernel drops such a lock when its process ends, however that happens.
"""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from data_pipeline.io.errors import InputError, machine_error
from data_pipeline.io.progress import say

NAME = ".lock"  # its text says who holds it; a file that is not locked means nothing
_TRIES = 100  # the last holder may remove a directory between our making and locking it
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def hold(directory: Path, flag: str = "--workdir") -> Iterator[None]:
    """Hold `directory` for this process during the block, and make it where there is none.

    A directory that was made here and is left empty is removed again. During the block the
    directory may be renamed, and another one made in its place.

    Raises:
        InputError: another process holds the directory; the message says which.
        OSError: the disk is full or failing.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        try:
            file = _lock(directory, f"{flag} {directory}")
        except OSError as e:
            raise (
                machine_error(e, directory)
                or InputError(
                    f"{flag} {directory} cannot be written ({e.strerror}); give another path"
                )
            ) from e
        try:
            yield
        finally:
            if _is(file, directory / NAME):
                (directory / NAME).unlink()
            file.close()
    finally:
        with contextlib.suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


@contextlib.contextmanager
def wait(path: Path) -> Iterator[None]:
    """Wait until no other process is in this block for the same `path`, then run it.

    The file `path` is the lock and is removed after the block. On a file system without locks
    nobody waits.
    """
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as e:
            if e.errno not in _NO_LOCKS:
                file.close()
                raise
        if _is(file, path):
            break
        file.close()  # its last holder removed it while this process waited
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # still locked, so no other process holds it
        file.close()


def take(file: int, path: Path) -> bool:
    """Lock the open `file`, which is at `path`; return False where another process holds it.

    The lock ends when `file` is closed. On a file system without locks, a warning says so, and the
    result is True.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        if e.errno not in _NO_LOCKS:
            raise
        say(
            f"cv3jax: {path.parent} is on a file system without locks; make sure that only one run"
            " uses it"
        )
    return True


def _lock(directory: Path, what: str) -> IO[str]:
    """Return the locked file of `directory`, with this process's name in it."""
    path = directory / NAME
    for tries in range(_TRIES + 1):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+")
        except FileNotFoundError:
            if tries == _TRIES:
                raise
            continue
        try:
            held = take(file.fileno(), path)
        except OSError:
            file.close()
            raise
        if not held:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise InputError(
                f"{what} is in use by {holder}; wait for it, stop it, or give another directory"
            )
        if _is(file, path):
            break
        file.close()  # its last holder removed it between our two calls
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def _is(file: IO[str], path: Path) -> bool:
    """Return whether `file` is still what is at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
