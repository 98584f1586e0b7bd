"""Images as files of a folder, with captions beside them or in a table.

No link leads outside the folder.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipeline.io.errors import InputError
from data_pipeline.sources import items
from data_pipeline.sources.items import (
    BAD_TEXT,
    IMAGE_SUFFIXES,
    MISSING,
    NO_IMAGE,
    OUTSIDE,
    TOO_LARGE,
    UNREADABLE,
    Image,
    Item,
    Place,
    Skip,
    make_item,
)

TABLES = ("metadata.jsonl", "metadata.csv")  # where a folder's captions may stand
TableRow = tuple[int, dict[str, Any] | str]  # line, and its fields or what is wrong with it
# columns, the first that is there
_NAMES, _CAPTIONS = ("file_name", "image", "filename", "path"), ("caption", "text")


def list_files(root: Path) -> tuple[list[Path], set[Path]]:
    """All images below `root`, and the captions that have none, hidden ones left out."""
    # all but directories: a dangling link is counted when it is read, not passed over in silence
    files = sorted(
        p for p in root.rglob("*") if not os.path.isdir(p) and not _hidden(p.relative_to(root))
    )
    # `p.suffix` and not `glob("*.png")`: camera files are called .JPG
    images = [p for p in files if p.suffix[1:].lower() in IMAGE_SUFFIXES]
    named = {p.with_suffix("") for p in images}
    return images, {p for p in files if p.suffix == ".txt" and p.with_suffix("") not in named}


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def read_files(root: Path, images: list[Path], captions_alone: set[Path]) -> Iterator[Item | Skip]:
    """Each image with the .txt and .json beside it; its key is its path below `root` without
    suffix.
    """
    inside = root.resolve()
    for path in sorted([*images, *captions_alone]):
        if path in captions_alone:
            yield Skip(path.relative_to(root).with_suffix("").as_posix(), NO_IMAGE)
            continue
        key = path.relative_to(root).with_suffix("").as_posix()
        texts: dict[str, bytes] = {}
        try:
            image = _image(path, inside)
            for kind in ("txt", "json"):
                if os.path.lexists(beside := path.with_suffix(f".{kind}")) and not os.path.isdir(
                    beside
                ):
                    texts[kind] = _read(beside, items.MAX_TEXT_BYTES, inside)[1]
            yield make_item(key, image, texts)
        except UnusableError as e:
            yield Skip(key, e.reason, e.detail)


def check_table(root: Path, table: Path) -> None:
    """Raises InputError on a table that cannot be read, or is not in `root`."""
    try:
        if not table.resolve().is_relative_to(root.resolve()):
            raise InputError(f"{table} is a link to a file outside {root}; copy it there")
        with table.open("rb") as file:
            file.read(1)
    except OSError as e:
        raise InputError(f"{table} cannot be read ({e.strerror})") from e


def read_table(root: Path, name: str, rows: Iterable[TableRow]) -> Iterator[Item | Skip]:
    """The images that rows of the table called `name` give, relative to `root`, in their order."""
    inside = root.resolve()
    for number, fields in rows:
        where = f"line {number}"
        if isinstance(fields, str):
            yield Skip(where, BAD_TEXT, f"{name}: {fields}")
            continue
        try:
            file = next((fields[column] for column in _NAMES if column in fields), None)
            path = root / file
            # ValueError where the name is empty
            key = PurePosixPath(file).with_suffix("").as_posix()
        except (ValueError, TypeError) as e:
            yield Skip(where, BAD_TEXT, f"{name}: {type(e).__name__}: {str(e)[:80]}")
            continue
        # "text" is what Hugging Face's imagefolder calls it
        fields["caption"] = next(
            (fields[column] for column in _CAPTIONS if fields.get(column) is not None), None
        )
        try:
            yield make_item(key, _image(path, inside), {}, fields)
        except UnusableError as e:
            yield Skip(key, e.reason, f"{where}: {e.detail}")


def table_rows(table: Path) -> Iterator[TableRow]:
    """The rows of a .jsonl or .csv."""
    if table.suffix == ".csv":
        csv.field_size_limit(items.MAX_TEXT_BYTES)
        # -sig: spreadsheets write a byte-order mark first
        with table.open(encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
            lines = csv.DictReader(_bounded(file))
            try:
                for fields in lines:
                    texts = (*_NAMES, *_CAPTIONS, "url")
                    yield (
                        lines.line_num,
                        {
                            k: v if k in texts else _number(v)
                            for k, v in fields.items()
                            if k is not None
                        },
                    )
            except csv.Error as e:
                yield lines.line_num, f"cannot be read from here on ({e})"
        return
    with table.open("rb") as file:
        number = 0
        while line := file.readline(items.MAX_TEXT_BYTES):
            if not line.strip():
                continue
            number += 1
            try:
                fields = json.loads(line)
                yield number, fields if isinstance(fields, dict) else "not an object"
            except (ValueError, RecursionError) as e:
                yield number, f"{type(e).__name__}: {str(e)[:80]}"


def _bounded(file) -> Iterator[str]:
    while line := file.readline(items.MAX_TEXT_BYTES):
        yield line


def _number(text: Any) -> Any:
    """A csv's cell as a number where it is one: scores are."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


class UnusableError(Exception):
    """A file that is not read: `reason` is one of items'."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def locate(path: Path, inside: Path | None) -> tuple[Path, int]:
    """The file that `path` names once links are followed, and its size.

    It must be below `inside`, an absolute directory.

    Raises:
        UnusableError: it is outside, missing, or not a file.
    """
    try:
        real = path.resolve()
        if inside and not real.is_relative_to(inside):
            raise UnusableError(OUTSIDE, path.name)
        if not os.path.isfile(real):  # a pipe or a device would block
            raise UnusableError(MISSING, path.name)
        return real, real.stat().st_size
    # a RuntimeError: links in a circle; a ValueError: characters no name has
    except (OSError, RuntimeError, ValueError) as e:
        raise UnusableError(UNREADABLE, f"{path.name}: {str(e)[:80]}") from e


def _image(path: Path, inside: Path) -> Image:
    real, data = _read(path, items.MAX_IMAGE_BYTES, inside)
    return Image(data, Place(str(real), 0, len(data)))


def _read(path: Path, limit: int, inside: Path) -> tuple[Path, bytes]:
    real, size = locate(path, inside)
    if size > limit:
        raise UnusableError(TOO_LARGE, items.too_large(path.name, size, limit))
    try:
        return real, real.read_bytes()
    except OSError as e:
        raise UnusableError(UNREADABLE, f"{path.name}: {e.strerror}") from e
