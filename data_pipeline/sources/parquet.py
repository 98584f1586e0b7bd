"""Reading parquet: img2dataset's files with image bytes, and tables of metadata to join by key."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, BinaryIO

from data_pipeline.io import extras, storage
from data_pipeline.io.errors import InputError, first_line, raise_machine
from data_pipeline.sources.fields import (
    KEYS,
    names_of,
    plain_name,
    present,
    read_fields,
    same_key,
)
from data_pipeline.sources.items import (
    TOO_LARGE,
    Image,
    Item,
    Place,
    Skip,
    limit_of,
    make_item,
    too_large,
)
from data_pipeline.sources.parquet_bounds import (
    ROW_BYTES,
    Budget,
    batch_rows,
    check_rows,
)
from data_pipeline.sources.parquet_footer import DamagedError, Group, check_footer
from data_pipeline.sources.parquet_values import columns_of, image_column_of, values_of
from data_pipeline.sources.texts import gather

BAD_PARQUET = "damaged parquet file"


def image_column(path: str) -> str | None:
    """Return the name of the column with image bytes, or None where the file has none.

    Raises:
        DamagedError: the file cannot be opened as parquet.
    """
    with _opened(path, row_bytes=ROW_BYTES) as opened:
        return image_column_of(opened.reader.schema_arrow)


def read_parquet(path: str, name: str, column: str) -> Iterator[Item | Skip]:
    """Yield the rows of a file with image bytes in `column`, each as an Item or a Skip.

    Reading stops at a damaged row group; the last Skip says so.
    """
    row = 0
    try:
        with _opened(path, row_bytes=ROW_BYTES) as opened:
            columns = [column, *columns_of(opened.reader.schema_arrow, column)]
            for fields in _rows(opened, columns, column):
                yield _item(fields, column, Place(path, row, -1))
                row += 1
    except DamagedError as e:
        yield Skip(name, BAD_PARQUET, f"after row {row}: {first_line(e)}")


def read_image(place: Place) -> bytes:
    """Return the image bytes of one row.

    It decodes the row group from its start, so do not call it for many rows.

    Raises:
        InputError: the file has changed.
    """
    try:
        with _opened(place.file, row_bytes=ROW_BYTES) as opened:
            column, row = image_column_of(opened.reader.schema_arrow), place.offset
            for number, group in enumerate(opened.groups):
                if row >= group.rows:
                    row -= group.rows
                    continue
                for batch in _batches(opened, number, [column], column):
                    if row < len(batch):
                        return _bytes(
                            [values_of(each[row : row + 1], image=True)[0] for each in batch]
                        )
                    row -= len(batch)
    except DamagedError as e:
        raise InputError(
            f"{place.file} can no longer be read ({first_line(e)}); start a new build"
        ) from e
    raise InputError(f"{place.file} no longer has row {place.offset}; start a new build")


def read_metadata(path: str, on: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (value of the column `on`, {"url", "scores", "unreadable"}) for each row.

    Raises:
        InputError: there is no such column, or the file is damaged.
    """
    names = names_of("url") if plain_name(on) in names_of("url") else (plain_name(on),)
    try:
        with _opened(path) as opened:
            columns = columns_of(opened.reader.schema_arrow)
            if not set(names) & set(map(plain_name, columns)):
                raise InputError(
                    f"--metadata {path} has no column {on!r} of text or numbers; give --join-on"
                    f" one of {', '.join(columns[:20])}"
                )
            for fields in _rows(opened, columns, ""):
                if (value := same_key(present(fields, names))) is not None:
                    told = read_fields(fields)
                    row = {"url": told.url, "scores": told.scores, "unreadable": told.unreadable}
                    yield value, row
    except DamagedError as e:
        raise InputError(
            f"--metadata {path} is damaged ({first_line(e)}); restore the file, or leave it out"
        ) from e


@dataclasses.dataclass(frozen=True)
class _Opened:
    """An open file whose metadata are bounded. `reader` is its ParquetFile."""

    file: BinaryIO
    reader: Any
    groups: list[Group]
    budget: Budget


@contextlib.contextmanager
def _opened(path: str, *, row_bytes: int = 1) -> Iterator[_Opened]:
    """Open a parquet file of bounded metadata.

    row_bytes: one row is allowed for so many bytes of the file.

    Raises:
        DamagedError: the file cannot be opened, or the block could not read it.
        InputError: pyarrow is not installed.
        OSError: the machine is to blame.
    """
    pyarrow = extras.load("pyarrow", f"reading {path}")
    from pyarrow import parquet

    with storage.open_read(path) as file:
        try:
            size, groups = check_footer(file)
            opened = parquet.ParquetFile(file)
            rows = opened.metadata.num_rows
            check_rows(rows, size, row_bytes)
            if rows != sum(group.rows for group in groups):
                raise DamagedError(f"its row groups do not have the {rows:,} rows that it claims")
            # of lists, the texts are read once and not for each of their uses
            lists = [
                leaf.path
                for leaf in map(opened.schema.column, range(len(opened.schema)))
                if leaf.max_repetition_level and leaf.physical_type == "BYTE_ARRAY"
            ]
            if lists:
                opened = parquet.ParquetFile(file, read_dictionary=lists)
            yield _Opened(file, opened, groups, Budget(size))
        except (pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError) as e:
            raise _damaged(e, path) from e


def _damaged(e: Exception, path: str) -> DamagedError:
    """Return the DamagedError for what reading raised.

    Raises OSError where the machine is to blame.
    Arrow's own lack of memory counts as damage, because a damaged length asks for any amount.
    """
    if isinstance(e, OSError):
        raise_machine(e, path)
    return DamagedError(first_line(e))


def _rows(opened: _Opened, columns: list[str], image: str) -> Iterator[dict[str, Any]]:
    """Yield rows as dicts: text that is not UTF-8 as bytes, two columns of one name as a list.

    image: the column of images, or an empty text.
    """
    names = list(dict.fromkeys(columns))
    for number, group in enumerate(opened.groups):
        count = 0
        for batch in _batches(opened, number, names, image):
            values = [
                values_of(column, image=name == image)
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            ]
            for row in zip(*values, strict=True):
                opened.budget.spend(_size(row))
                count += 1
                yield gather(list(zip(batch.schema.names, row, strict=True)))
        if names and count != group.rows:
            said = f"row group {number} has {count:,} of the {group.rows:,} rows that it claims"
            raise DamagedError(said)


def _batches(opened: _Opened, number: int, names: list[str], image: str) -> Iterator[Any]:
    """Yield a row group in batches whose decoded size is bounded."""
    schema, group = opened.reader.schema, opened.groups[number]
    rows = batch_rows(opened.file, schema, group, names, image, opened.budget)
    yield from opened.reader.iter_batches(rows, row_groups=[number], columns=names)


def _size(value: Any) -> int:
    """Return about how many bytes of text or image a row has, a text once for each of its uses."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list | tuple):
        return sum(map(_size, value)) + 8 * len(value)
    return _size(value.get("bytes")) if isinstance(value, dict) else 8


def _item(fields: dict[str, Any], column: str, place: Place) -> Item | Skip:
    """Return the Item of a row, or the Skip that says why there is none."""
    stem = place.file.rpartition("/")[2].removesuffix(".parquet")
    key = same_key(present(fields, KEYS)) or f"{stem}-{place.offset:08d}"
    data = _bytes(fields.pop(column))
    if len(data) > limit_of("image"):
        return Skip(key, TOO_LARGE, too_large(key, len(data), limit_of("image")))
    return make_item(key, Image(data, place) if data else None, {}, fields)


def _bytes(value: Any) -> bytes:
    """Return the image bytes of a cell, or of the first of several cells; empty without any."""
    for each in value if isinstance(value, list) else [value]:
        data = each.get("bytes") if isinstance(each, dict) else each
        if isinstance(data, bytes) and data:
            return data
    return b""
