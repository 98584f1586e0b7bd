"""Make files that are no regular files, or that have no end, and give them to a reader."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.io.errors import InputError

HUGE = 2**40  # bytes of a file without content
SECONDS = 1.0


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE)


KINDS = {"pipe": _pipe, "zero": _zero, "folder": _folder, "socket": _socket, "huge": _huge}


class _SlowError(BaseException):
    """A reader did not end in time."""


def refused(read: Callable[[], object]) -> str:
    """Return the one line of the InputError with which `read` ends within SECONDS."""

    def late(number, frame):
        raise _SlowError(f"it has not ended after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 10 * SECONDS)  # a hang would end nothing
    began = time.thread_time()
    try:
        with pytest.raises(InputError) as caught:
            read()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.thread_time() - began < SECONDS
    line = str(caught.value)
    assert line
    assert "\n" not in line
    return line
