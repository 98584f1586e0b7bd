"""Share what one process of the test session makes with all others, in a directory."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

# conftest.py sets it in the first process, whose workers inherit it, and removes the directory
VARIABLE = "CV3JAX_TESTS_ROOT"


def root() -> Path:
    return Path(os.environ[VARIABLE])


@contextlib.contextmanager
def once(name: str) -> Iterator[bool]:
    """Yield whether the block must make `name`: True for the first process.

    It is True again after a failure. The others wait for its end.
    """
    with (root() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = root() / f"{name}.done"
        missing = not done.exists()
        yield missing
        done.touch()
