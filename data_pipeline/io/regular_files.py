"""Opening files from outside: regular files only, of bounded size, without waiting.

Opening a pipe waits for whoever writes it, and a device such as /dev/zero has no end. A file of
another kind ends in an OSError whose text says what it is, before anything is read.
"""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from data_pipeline.io.errors import InputError

KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | Path, most: int | None = None) -> BinaryIO:
    """Return a regular file of at most `most` bytes, open for reading. Links are followed.

    Raises:
        OSError: it cannot be opened, is no regular file, or is larger. `strerror` says which.
    """
    _check(os.stat(path), path, most)  # opening a device may have an effect of its own
    file = _opened(path)
    try:
        # of what was opened, if it was replaced in between
        _check(os.fstat(file.fileno()), path, most)
    except BaseException:
        file.close()
        raise
    return file


def check_regular(path: str | Path, most: int | None = None) -> None:
    """Raise OSError as `open_regular` does, for a library that opens the file by its name."""
    open_regular(path, most).close()


def check_files(paths: Iterable[Path], most: int | None = None) -> None:
    """Raise InputError, which names the file, where one of several is not such a file."""
    for path in paths:
        try:
            check_regular(path, most)
        except OSError as e:
            raise InputError(f"{path}: {e.strerror}; get it again") from e


def read_regular(path: str | Path, most: int) -> bytes:
    """Return the bytes of a regular file of at most `most` bytes. Raises as `open_regular`."""
    with open_regular(path, most) as file:
        data = file.read(most + 1)
    if len(data) > most:  # it grew, or is a file of /proc, which has no size
        raise _too_large(f"more than {most:,}", path, most)
    return data


def _opened(path: str | Path) -> BinaryIO:
    return open(path, "rb", opener=lambda place, flags: os.open(place, flags | os.O_NONBLOCK))


def _check(found: os.stat_result, path: str | Path, most: int | None) -> None:
    """Raise OSError where a file's kind or size is not allowed."""
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for matches, words in KINDS if matches(found.st_mode)), "no file")
        code = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(code, f"it is {kind}; give a regular file", str(path))
    if most is not None and found.st_size > most:
        raise _too_large(f"{found.st_size:,}", path, most)


def _too_large(size: str, path: str | Path, most: int) -> OSError:
    # not EFBIG, which says that the machine is to blame
    return OSError(errno.EINVAL, f"it has {size} bytes, and may have {most:,}", str(path))
