"""Files that commands are asked for: whether they can be written, and JSON in and out."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.io.errors import InputError, naming


def read_json(path: Path) -> dict:
    """What `write_json` wrote. Raises InputError where it is something else by now."""
    try:
        content = json.loads(path.read_text())
    except ValueError as e:
        raise InputError(f"{path} is damaged ({e}); remove it and run the same command") from e
    if not isinstance(content, dict):
        raise InputError(
            f"{path} is damaged (not a JSON object); remove it and run the same command"
        )
    return content


def check_directory(path: Path, flag: str) -> None:
    """Raise InputError where a file is in the way of the directory `path`: before the work and not
    after it.
    """
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise InputError(f"{flag} {path}: {nearest} is a file; give a directory")


def check_file(path: Path | None, flag: str) -> None:
    """Raise InputError where `path` could not be written as a file: before the work and not after
    it.
    """
    if path is None:
        return
    if os.path.isdir(path):
        raise InputError(f"{flag} {path} is a directory; give a file")
    nearest = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
    if nearest != path and not os.path.isdir(nearest):
        raise InputError(
            f"{flag} {path}: {nearest} is a file; give a path whose directory exists or can be made"
        )
    if not os.access(nearest, os.W_OK):
        raise InputError(f"{flag} {path}: {nearest} cannot be written; give another place")


def write_json(path: Path | None, figures: dict) -> None:
    """Write a command's figures where --json asks for them, whole or not at all."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        text = json.dumps(figures, indent=2, sort_keys=True, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def replacing(
    path: Path, temporary: Path | None = None, *, durable: bool = False
) -> Iterator[Path]:
    """Give the place to write a file that appears as `path` when the block ends: whole or not at
    all.

    temporary: that place, of the same file system (default: beside `path`). durable: the file is on
    the disk before it gets its name, for the case that the machine itself goes down. What a block
    that fails has written is removed. An error of the system in the block gets the place's name
    where it has none.
    """
    temporary = temporary or path.with_name(path.name + ".tmp")
    try:
        with naming(temporary):
            yield temporary
            if durable:
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the block's error is the one to tell
            temporary.unlink(missing_ok=True)
        raise
