"""Keep the directory of compiled programs within a size: JAX itself removes none of them.

JAX has a limit of its own (JAX_COMPILATION_CACHE_MAX_SIZE). It is not used here, because it writes
a file at each reading, looks at all files at each writing, does not take a directory that was
filled without it, and cannot lock a directory in a bucket.
"""

import contextlib
import os
import time
from pathlib import Path

from data_pipeline.io.errors import InputError

VARIABLE, DEFAULT = "CV3JAX_COMPILED_GB", 20.0
PRUNED = "pruned"  # the file whose time says when the directory was looked at
EVERY = 86_400.0  # seconds between two looks
_ENDS = "-cache"  # of the names of JAX's files


def limit() -> float:
    """Return the bytes that compiled programs may take; 0: any number.

    Raises InputError where the variable has no such number.
    """
    text = os.environ.get(VARIABLE) or str(DEFAULT)
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size <= 1e6:
        raise InputError(f"{VARIABLE}={text}: give 10⁹ bytes, from 0 (no limit) to 1,000,000")
    return size * 1e9


def prune(place: Path, most: float) -> None:
    """Remove the programs that were used least recently, until the others have `most` bytes.

    At most once a day. Where a program is removed that a process is about to read, that process
    compiles it again. A directory that cannot be written is left as it is.
    """
    note = place / PRUNED
    with contextlib.suppress(OSError):  # somebody else's directory, or a first start
        if note.exists() and 0 <= time.time() - note.stat().st_mtime < EVERY:
            return
        found = []
        for entry in os.scandir(place):
            if entry.name.endswith(_ENDS) and entry.is_file(follow_symlinks=False):
                about = entry.stat()
                found.append((max(about.st_atime, about.st_mtime), about.st_size, entry.path))
        if not found:
            return
        note.touch()
        excess = sum(size for _, size, _ in found) - most
        for _, size, path in sorted(found):
            if excess <= 0:
                return
            os.unlink(path)
            excess -= size
