"""The exceptions that every command turns into a single line and an exit code (exits.py), and names
for the system's errors.
"""

import contextlib
import errno
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

# what an operating system says of itself, its disks and its network; all else it says of a path
_NAMES = """EMFILE ENFILE ENOMEM EAGAIN EINTR ENOBUFS ENOSPC EDQUOT EFBIG EIO EUCLEAN EBUSY ESTALE
    EREMOTEIO ENODEV ENOMEDIUM ENOLINK ENOTCONN ETIMEDOUT ECOMM ESHUTDOWN ECONNRESET ECONNREFUSED
    ECONNABORTED EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ENETRESET"""
_MACHINE = {os.strerror(code): code for code, n in errno.errorcode.items() if n in _NAMES.split()}
# how tensorstore, Rust and Python say the number, and how others say the words
_NUMBER = re.compile(r"os_error_code='(\d+)'|\(os error (\d+)\)|\[Errno (\d+)\]")
_WORDS = re.compile("|".join(map(re.escape, sorted(_MACHINE, key=len, reverse=True))))


class InputError(Exception):
    """Something given from outside is unusable: a flag, a config field, a file, a record.

    The message is one line that says what was wrong with which file or flag, and what would be
    right.
    """


class FailedRunError(Exception):
    """A run cannot go on, and what it was given is not to blame. The message is one line."""


class StoppedError(Exception):
    """A run ended because it was asked to. `signal` is the number by which."""

    def __init__(self, number: int, message: str):
        super().__init__(f"{signal.Signals(number).name}: {message}")
        self.signal = number


def first_line(e: BaseException, most: int = 200) -> str:
    """What another library's error says first, `most` characters of it; its kind where it says
    nothing.
    """
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:most]


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give an OSError of the block, which writes `path`, that name: those of a full disk come
    without one.
    """
    try:
        yield
    except OSError as e:
        if e.filename or e.errno is None:
            raise
        raise OSError(e.errno, e.strerror, str(path)) from e


def machine_error(e: BaseException, path: str | Path) -> OSError | None:
    """The operating system's error in `e`, about `path`, where the machine is to blame for it; None
    where the file or its name is.

    Such as too many open files, a full or failing disk, a file server that is gone: no file is
    damaged by it, and the same command may succeed later. Libraries tell of it in errors of their
    own, whose text is searched.
    """
    code = e.errno if isinstance(e, OSError) else None
    if code is None and (found := _NUMBER.search(str(e))):
        code = int(next(filter(None, found.groups())))
    elif code is None and (found := _WORDS.search(str(e))):
        code = _MACHINE[found[0]]
    if code not in _MACHINE.values():
        return None
    return OSError(code, os.strerror(code), str(path))


def raise_machine(e: OSError, path: str | Path) -> None:
    """Raise `machine_error` where there is one; return where `path` itself is to blame."""
    if failed := machine_error(e, path):
        raise failed from e
