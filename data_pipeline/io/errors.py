"""The exceptions that every command turns into a single line and an exit code (exits.py), and names
for the system's errors.
"""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path


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
