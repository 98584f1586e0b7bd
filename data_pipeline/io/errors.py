"""The exceptions that every command turns into one line and an exit code (exits.py).

Also functions that say of which path the system's errors are, and whether the machine is to blame.
"""

import contextlib
import errno
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.io.terminal import visible

# errors about the machine, its disks and its network; every other one is about the path
_NAMES = """EMFILE ENFILE ENOMEM EAGAIN EINTR ENOBUFS ENOSPC EDQUOT EFBIG EIO EUCLEAN EBUSY ESTALE
    EREMOTEIO ENODEV ENOMEDIUM ENOLINK ENOTCONN ETIMEDOUT ECOMM ESHUTDOWN ECONNRESET ECONNREFUSED
    ECONNABORTED EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ENETRESET"""
_MACHINE = {os.strerror(code): code for code, n in errno.errorcode.items() if n in _NAMES.split()}
# the error's number as tensorstore, Rust and Python print it, and its words as others do
_NUMBER = re.compile(r"os_error_code='(\d+)'|\(os error (\d+)\)|\[Errno (\d+)\]")
_WORDS = re.compile("|".join(map(re.escape, sorted(_MACHINE, key=len, reverse=True))))


class InputError(Exception):
    """Something given from outside is unusable: a flag, a config field, a file, a record.

    The message is one line. It says what is wrong with which file or flag, and what would be right.
    Line breaks of every kind, which names from outside may have, are escaped.
    """

    def __init__(self, message: object = ""):
        """Create the error with its message."""
        text = str(message)
        if len(text.splitlines()) > 1:
            text = "".join(visible(c) if len(f"{c}.".splitlines()) > 1 else c for c in text)
        super().__init__(text)


class FailedRunError(Exception):
    """A run cannot continue although its input is right. The message is one line."""


class StoppedError(Exception):
    """A run ended because a signal asked it to. `signal` is the number of that signal."""

    def __init__(self, number: int, message: str):
        """Create the error for the signal `number`; the message begins with the signal's name."""
        super().__init__(f"{signal.Signals(number).name}: {message}")
        self.signal = number


def first_line(e: BaseException, most: int = 200) -> str:
    """Return the first line of another library's error, or its type where it has no text.

    most: the length in characters at which the line is cut.
    """
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:most]


def counted(count: int, noun: str) -> str:
    """Return a count and its noun for a message, as in "1 step" or "1,200 steps"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Add `path` to an OSError of the block that has no file name, such as that of a full disk."""
    try:
        yield
    except OSError as e:
        if e.filename or e.errno is None:
            raise
        raise OSError(e.errno, e.strerror, str(path)) from e


def machine_error(e: BaseException, path: str | Path) -> OSError | None:
    """Return the system's error in `e` as an OSError about `path` where the machine is to blame.

    None where the file or its name is to blame. The machine is to blame for too many open files, a
    full or failing disk, or a file server that is gone: no file is damaged then, and the same
    command may succeed later. Libraries report these in errors of their own, whose text is
    searched.
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
    """Raise `machine_error` where the machine is to blame; return where `path` itself is."""
    if failed := machine_error(e, path):
        raise failed from e
