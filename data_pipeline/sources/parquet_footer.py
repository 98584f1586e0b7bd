"""The footer of a parquet file, read within limits before Arrow reads it.

A schema that is nested deeply overflows the stack in Arrow, and a histogram of a wrong length ends
the process there. No code in Python could catch either.
"""

import dataclasses
from typing import Any, BinaryIO

from data_pipeline.sources.thrift import INTEGERS, LIST, Reader, ThriftError

MAX_FOOTER = 2**24  # bytes: a file of 18 million rows has one megabyte
MAX_COLUMNS = 4096
MAX_DEPTH = 32  # columns within columns
MAX_GROUPS = 2**15  # row groups
_MAGIC = b"PAR1"


class DamagedError(Exception):
    """A parquet file ends early, contradicts itself or exceeds a limit.

    The rows that were read before are good.
    """


@dataclasses.dataclass(frozen=True)
class Group:
    """A row group: its number of rows, and where each of its columns begins and ends."""

    rows: int
    places: tuple[tuple[int, int], ...]


def check_footer(file: BinaryIO) -> tuple[int, list[Group]]:
    """Return (the file's size, its row groups) after checking the sizes and depths of its footer.

    Raises:
        DamagedError: the file has no footer, or one that exceeds a limit.
    """
    size = file.seek(0, 2)
    if size < 12:
        raise DamagedError(f"it has {size} bytes, too few for a parquet file")
    file.seek(size - 8)
    end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != _MAGIC:
        raise DamagedError("it does not end as a parquet file")
    if length > MAX_FOOTER:
        raise DamagedError(f"its footer has {length:,} bytes; the limit is {MAX_FOOTER:,}")
    if length > size - 12:
        raise DamagedError(f"its footer would have {length:,} of its {size:,} bytes")
    file.seek(size - 8 - length)
    reader, groups = Reader(file.read(length)), []
    try:
        for number, kind in reader.fields():
            if number == 2 and kind == LIST:
                _check_schema(reader)
            elif number == 4 and kind == LIST:
                groups = _read_groups(reader)
            else:
                reader.skip(kind)
    except (ThriftError, IndexError, TypeError) as e:
        raise DamagedError(f"its footer is damaged ({e or 'it ends too early'})") from e
    file.seek(0)
    return size, groups


def _check_schema(reader: Reader) -> None:
    """Read the list of columns. Raises DamagedError where they are too many or too deep."""
    count, _ = reader.list_head()
    if count > 2 * MAX_COLUMNS:
        raise DamagedError(f"it has {count:,} columns and groups; the limit is {2 * MAX_COLUMNS:,}")
    open_groups: list[int] = []  # for each group around the next column, how many are missing
    for _ in range(count):
        children = whole(reader.struct().get(5))
        if open_groups:
            open_groups[-1] -= 1
        while open_groups and open_groups[-1] <= 0 and children <= 0:
            open_groups.pop()
        if children > 0:
            open_groups.append(children)
        if len(open_groups) > MAX_DEPTH:
            raise DamagedError(f"its columns are nested more than {MAX_DEPTH} deep")


def _read_groups(reader: Reader) -> list[Group]:
    """Return the row groups. Raises DamagedError where they or their columns are too many."""
    count, _ = reader.list_head()
    if count > MAX_GROUPS:
        raise DamagedError(f"it has {count:,} row groups; the limit is {MAX_GROUPS:,}")
    groups = []
    for _ in range(count):
        rows, places = -1, []
        for number, kind in reader.fields():
            if number == 1 and kind == LIST:
                columns, _ = reader.list_head()
                places = [_place(reader.struct(), columns) for _ in range(columns)]
            elif number == 3 and kind in INTEGERS:
                rows = reader.integer()
            else:
                reader.skip(kind)
        groups.append(Group(rows, tuple(places)))
    return groups


def _place(chunk: dict[int, Any], columns: int) -> tuple[int, int]:
    """Return where the pages of a column of a row group begin and end; (-1, -1) if not told."""
    if columns > MAX_COLUMNS:
        raise DamagedError(f"it has {columns:,} columns; the limit is {MAX_COLUMNS:,}")
    told = chunk.get(3)
    if not isinstance(told, dict):
        return -1, -1
    size, data, words = (whole(told.get(field)) for field in (7, 9, 11))
    start = words if 0 < words < data else data
    return (start, start + size) if size >= 0 and start >= 0 else (-1, -1)


def whole(value: Any) -> int:
    """Return the value of a field if it is a number, or -1."""
    return value if isinstance(value, int) and not isinstance(value, bool) else -1
