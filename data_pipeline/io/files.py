"""Checks whether a file can be written, and writing files whole or not at all."""

import contextlib
import errno
import fcntl
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.io.bounded_json import load_json
from data_pipeline.io.errors import InputError, machine_error, naming

PATH, NAME = 4095, 255  # bytes of a path and of a name that Linux takes
BELOW = 320  # bytes of the longest path below a directory that commands make: a checkpoint's
BESIDE = 24  # bytes that are added to a name while the file or directory is written


def read_json(path: Path) -> dict:
    """Return the object in a file that `write_json` wrote.

    Raises InputError where the file is no longer such an object.
    """
    try:
        content = load_json(path, nan=True)
    except ValueError as e:
        raise InputError(
            f"{path} is damaged ({e}); remove it and run the same command again"
        ) from e
    if not isinstance(content, dict):
        raise InputError(
            f"{path} is damaged (not a JSON object); remove it and run the same command again"
        )
    return content


def check_length(path: Path, flag: str, below: int = BELOW) -> None:
    """Raise InputError where what is written at `path` or below it would have too long a path.

    below: the bytes that the names of files below `path` may take.
    """
    size, most = len(os.fsencode(path.absolute())), PATH - below
    if size > most:
        raise InputError(
            f"{flag} {path}: the path has {size:,} bytes, and may have {most:,}; give a shorter one"
        )
    if (size := len(os.fsencode(path.name))) > NAME - BESIDE:
        raise InputError(
            f"{flag} {path}: the name has {size:,} bytes, and may have {NAME - BESIDE:,}; give a"
            " shorter one"
        )


def check_directory(path: Path, flag: str, *, renamed: bool = False) -> None:
    """Raise, before the work, where the directory `path` could not be written into.

    renamed: a finished directory is to be renamed to `path`, so its parent must be writable.

    Raises:
        InputError: a file or a loop of links is in the way, no directory can be made there, or the
            path is too long.
        OSError: the disk is full or failing.
    """
    check_length(path, flag)
    try:
        path.stat()
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise InputError(f"{flag} {path}: {e.strerror}; give another path") from e
    places = [*path.absolute().parents] if renamed else [path, *path.absolute().parents]
    nearest = next(place for place in places if place.exists())
    if not nearest.is_dir():
        raise InputError(f"{flag} {path}: {nearest} is a file; give a directory")
    _try(nearest, f"{flag} {path}")


def check_file(path: Path | None, flag: str) -> None:
    """Raise, before the work, where the file `path` could not be written.

    Raises:
        InputError: `path` is a directory, or no file can be made or replaced there.
        OSError: the disk is full or failing.
    """
    if path is None:
        return
    check_length(path, flag, BESIDE)
    if os.path.isdir(path):
        raise InputError(f"{flag} {path} is a directory; give a file")
    try:
        place = _place(path)
    except OSError as e:
        raise InputError(f"{flag} {path}: {e.strerror}; give another path") from e
    if not _writable(path, place):
        raise InputError(f"{flag} {path} cannot be written; give another path")
    if place is None:
        return
    nearest = next(folder for folder in place.absolute().parents if os.path.exists(folder))
    if not os.path.isdir(nearest):
        raise InputError(
            f"{flag} {path}: {nearest} is a file, not a directory; give a path whose directory"
            " exists or can be made"
        )
    _try(nearest, f"{flag} {path}")


def _writable(path: Path, place: Path | None) -> bool:
    """Return whether what is at `path` can be written; place: the result of `_place`."""
    if not os.path.exists(path):
        return place is not None
    if (number := _descriptor(path)) is not None:
        return fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    return os.access(path, os.W_OK) and not stat.S_ISSOCK(os.stat(path).st_mode)


def _try(folder: Path, what: str) -> None:
    """Make a directory in `folder` and remove it again.

    Missing permissions, read-only mounts and full disks show themselves so, even to root.
    """
    try:
        Path(tempfile.mkdtemp(prefix=".cv3jax-", dir=folder)).rmdir()
    except OSError as e:
        raise (
            machine_error(e, folder)
            or InputError(f"{what}: {folder} cannot be written ({e.strerror}); give another path")
        ) from e


def write_json(path: Path | None, figures: dict) -> None:
    """Write a command's figures to the file that --json gives, whole or not at all."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(json_bytes(figures, sort_keys=True))


def json_bytes(value: dict, *, sort_keys: bool = False) -> bytes:
    """Return indented JSON in UTF-8, in which what is not printable is escaped."""
    text = json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False)
    if not (text.isascii() and "\x7f" not in text):  # json.dumps escapes the others
        text = "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text)
        text = text.replace("\x7f", "\\u007f")
    return f"{text}\n".encode()


@contextlib.contextmanager
def replacing(
    path: Path, temporary: Path | None = None, *, durable: bool = False
) -> Iterator[Path]:
    """Yield the place to write a file that appears as `path` when the block ends.

    The file appears whole or not at all: what a failing block has written is removed. Where `path`
    is a link, the link stays, and the file that it names is replaced. Only a regular file is
    replaced: a device, a pipe or an open file (/dev/stdout) is sent the bytes when the block ends.

    temporary: the place to write, on the same file system (default: beside `path`). durable: the
    file is flushed to the disk before it gets its name, in case the machine goes down. An OSError
    of the block gets the name of that place where it has none.
    """
    place = _place(path)
    if place is None:
        with tempfile.TemporaryDirectory(prefix="cv3jax-") as folder:
            yield (written := Path(folder) / "file")
            _pour(written, path)
        return
    if temporary is None or place != path:  # a link may name another file system
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name((temporary or Path(f"{place.name}.tmp")).name)
    if os.path.lexists(temporary) and not stat.S_ISREG(os.lstat(temporary).st_mode):
        # a link, a pipe or a directory of somebody else has that name
        temporary = temporary.with_name(f"{temporary.name}.{os.getpid()}")
    try:
        with naming(temporary):
            yield temporary
            if durable:
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
        temporary.replace(place)
    except BaseException:
        with contextlib.suppress(OSError):  # the block's error is the one to report
            temporary.unlink(missing_ok=True)
        raise


def _place(path: Path) -> Path | None:
    """Return the path of the regular file to replace: `path`, or what it links to.

    None where no file can be put: a device, a pipe or a descriptor. Raises OSError where nothing
    can be there.
    """
    if _descriptor(path) is not None:
        return None
    try:
        kind = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        kind = stat.S_IFREG
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        return None
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def _descriptor(path: Path) -> int | None:
    """Return the number of the open file that `path` means, as /dev/stdout and /dev/fd/3 do."""
    place = os.path.abspath(path)
    for _ in range(40):  # as many links as Linux follows
        folder, name = os.path.realpath(os.path.dirname(place)), os.path.basename(place)
        if name.isdigit() and folder in (f"/proc/{os.getpid()}/fd", "/dev/fd"):
            return int(name)
        place = os.path.join(folder, name)
        if not os.path.islink(place):
            return None
        place = os.path.join(folder, os.readlink(place))
    return None


def _pour(source: Path, path: Path) -> None:
    """Write a file's bytes to a device, a pipe or an open file, after what was printed so far."""
    number = _descriptor(path)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    with naming(path), open(path if number is None else os.dup(number), "wb") as target:
        target.write(source.read_bytes())
