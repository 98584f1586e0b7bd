"""Captions in a table: metadata.jsonl or metadata.csv of a folder, or another file of that kind."""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipeline.io.errors import InputError
from data_pipeline.io.regular_files import open_regular
from data_pipeline.sources import items
from data_pipeline.sources.delimited import read_csv
from data_pipeline.sources.fields import FILES, present
from data_pipeline.sources.folders import UnusableError, read_image
from data_pipeline.sources.items import BAD_TEXT, Item, Skip, make_item
from data_pipeline.sources.texts import (
    TextError,
    bounded_lines,
    encoding_of,
    not_text,
    parse_json,
    tidy,
)

TABLES = ("metadata.jsonl", "metadata.csv")  # the names of a folder's table, the first preferred
TableRow = tuple[int, dict[str, Any] | str]  # (line, its fields or what is wrong with it)


def find_table(root: Path) -> Path | None:
    """Return the table of a folder's captions, its name in upper or lower case, or None."""
    named = sorted(path for path in root.iterdir() if path.name.lower() in TABLES)
    there = {path.name.lower(): path for path in reversed(named) if path.is_file()}
    return next((there[name] for name in TABLES if name in there), None)


def check_table(root: Path, table: Path) -> None:
    """Raise InputError where a table cannot be read, or is not in `root`."""
    try:
        if not table.resolve().is_relative_to(root.resolve()):
            raise InputError(f"{table} is a link to a file outside {root}; copy that file here")
        with open_regular(table) as file:
            file.read(1)
    except OSError as e:
        raise InputError(f"{table} cannot be read ({e.strerror}); make it readable") from e


def read_table(root: Path, name: str, rows: Iterable[TableRow]) -> Iterator[Item | Skip]:
    """Yield one Item or Skip for each row of the table called `name`, in order.

    The file names in the rows are relative to `root`.
    """
    inside = root.resolve()
    for number, fields in rows:
        where = f"line {number}"
        if isinstance(fields, str):
            yield Skip(where, BAD_TEXT, f"{name}: {fields}")
            continue
        try:
            file = _file(fields)
            # raises ValueError where the name is empty
            key = PurePosixPath(file).with_suffix("").as_posix()
        except ValueError as e:
            yield Skip(where, BAD_TEXT, f"{name}: {str(e)[:80]}")
            continue
        try:
            yield make_item(key, read_image(root / file, inside), {}, fields)
        except UnusableError as e:
            yield Skip(key, e.reason, f"{where}: {e.detail}")


def _file(fields: dict[str, Any]) -> str:
    """Return the file name that a row gives. Raises ValueError where it gives none or several."""
    given = present(fields, FILES)
    if len(given) != 1 or not isinstance(given[0], str):
        raise ValueError(f"no file name ({', '.join(FILES)})")
    return tidy(given[0])


def table_rows(table: Path) -> Iterator[TableRow]:
    """Yield the rows of a .jsonl or .csv, without empty lines.

    Raises:
        InputError: a .csv is not text, or has no header.
    """
    return read_csv(table) if table.suffix.lower() == ".csv" else _json_rows(table)


def _json_rows(table: Path) -> Iterator[TableRow]:
    """Yield the rows of a .jsonl."""
    with table.open("rb") as file:
        codec = encoding_of(file.read(4))
    # UTF-8 is read as bytes, so that a line that is not UTF-8 is damaged alone
    options = {"mode": "rb"} if codec.startswith("utf-8") else {"encoding": codec}
    number = 0
    with table.open(**options) as file:
        try:
            for line in bounded_lines(file, items.MAX_TEXT_BYTES):
                if line is not None and not line.strip():
                    continue
                number += 1
                yield number, _json_row(line)
        except UnicodeError as e:
            raise InputError(f"{table}: {not_text(codec, f'after line {number}')}") from e


def _json_row(line: str | bytes | None) -> dict[str, Any] | str:
    """Return a line's fields, or what is wrong with it."""
    if line is None:
        return f"a line of more than {items.MAX_TEXT_BYTES:,} bytes"
    try:
        fields = parse_json(line)
    except TextError as e:
        return str(e)
    except ValueError as e:
        return f"{type(e).__name__}: {str(e)[:80]}"
    return fields if isinstance(fields, dict) else "not an object"
