"""One run at a time in a directory: a lock that the kernel drops when its process ends, however it
ends.
"""

import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from data_pipeline.io.errors import InputError, machine_error

NAME = ".lock"  # the file says who holds it; that it exists means nothing
_TRIES = 100  # a directory may go between making and locking it, with its last holder
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def hold(directory: Path, flag: str = "--workdir") -> Iterator[None]:
    """Hold `directory` for this process, making it where there is none; one that is left empty goes
    again. It may be renamed meanwhile, and another one made in its place.

    Raises:
        InputError: another process holds it; which one is said.
        OSError: the disk is full, or fails.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        try:
            file = _lock(directory, f"{flag} {directory}")
        except OSError as e:
            raise (
                machine_error(e, directory)
                or InputError(
                    f"{flag} {directory}: cannot be written ({e.strerror}); give another place"
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
    """Wait for whichever process is in this block for the same `path`.

    The file `path` is the lock, and goes with the block. On a file system without locks nobody
    waits.
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
        path.unlink(missing_ok=True)  # still locked, so nobody else's
        file.close()


def take(file: int, path: Path) -> bool:
    """Take the lock of the open `file`, which is at `path`; False where another process has it.

    It goes when `file` is closed. On a file system without locks it is said that there is none, and
    taken for granted.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        if e.errno not in _NO_LOCKS:
            raise
        print(
            f"cv3jax: {path.parent} is on a file system without locks; see that only one run uses"
            " it",
            file=sys.stderr,
        )
    return True


def _lock(directory: Path, what: str) -> IO[str]:
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
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
