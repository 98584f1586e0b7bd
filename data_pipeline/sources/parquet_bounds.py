"""The size of what a parquet file decodes to, read from its metadata before anything is decoded.

The footer does not tell it: a dictionary may repeat one long text in every row, and a page may
decompress to any size. The headers of the pages tell it, and Arrow does not look at them first.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from data_pipeline.sources.parquet_footer import DamagedError, Group, whole
from data_pipeline.sources.thrift import Reader, ThriftError

MAX_PAGE = 2**28  # bytes of a page after decompression: writers make pages of one megabyte
MAX_PAGES = 2**14  # of one column of a row group
MAX_LISTS = 2**25  # values of a column of lists in a row group
MAX_BYTES_AS_LISTS = 2**28  # the same where they are the bytes of images
MAX_BATCH = 2**28  # bytes of the rows that are decoded together
ROWS = 64  # decoded together at most
MIN_ROWS = 2**16  # a file may have so many rows, and
ROW_BYTES = 32  # one more for so many of its bytes, of images; for one byte, of metadata
# a file may decode to so many bytes, and to so many times its own size
MIN_DECODED, TIMES_DECODED = 2**28, 100
_HEADERS = (2**9, 2**16, 2**20)  # bytes that are read for a page's header until it is whole
_PLAIN = (0, 6)  # encodings of texts in which each value has bytes of its own
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


class Budget:
    """The bytes to which a file of `size` bytes may decode. Raises DamagedError beyond them."""

    def __init__(self, size: int):
        """Start with the whole budget."""
        self._size, self._most = size, MIN_DECODED + TIMES_DECODED * size
        self._spent = 0

    def spend(self, count: int) -> None:
        """Take `count` bytes from the budget."""
        self._spent += count
        if self._spent > self._most:
            raise DamagedError(
                f"it decodes to more than {self._most:,} bytes, the limit for a file of"
                f" {self._size:,}"
            )


def check_rows(rows: int, size: int, row_bytes: int) -> None:
    """Raise DamagedError where a file of `size` bytes claims more rows than it can hold."""
    most = MIN_ROWS + size // row_bytes
    if not 0 <= rows <= most:
        raise DamagedError(f"it has {rows:,} rows; the limit for {size:,} bytes is {most:,}")


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """What the headers of a column's pages say, for one row group.

    Attributes:
        width: the bytes of a value, or 0 where they differ.
        lists: whether a row may have several values.
        values: their number, with missing ones.
        largest: the bytes of the largest page, which no value exceeds.
        total: the bytes of all pages.
        repeats: whether a value may be stored once and used often.
        fewest: the fewest values of a page, apart from the last.
    """

    width: int
    lists: bool
    values: int
    largest: int
    total: int
    repeats: bool
    fewest: int

    def cost(self, rows: int) -> int:
        """Return the most bytes to which `rows` of the row group's rows decode.

        Of lists of texts, Arrow is asked for the dictionary and not for a copy in each list.
        """
        if self.lists:
            return self.values * (self.width or 4) + (0 if self.width else self.total)
        if self.width:
            return rows * self.width
        if self.repeats:
            return rows * self.largest
        return min(rows, rows // max(self.fewest, 1) + 2) * self.largest


def batch_rows(
    file: BinaryIO, schema: Any, group: Group, columns: Iterable[str], images: str, budget: Budget
) -> int:
    """Return how many rows of a row group may be decoded together: ROWS or fewer.

    Args:
        file: the open file.
        schema: its stored columns, of ParquetFile.
        group: the row group.
        columns: the columns that are to be decoded.
        images: the one of them that has images, or an empty text.
        budget: of the file.

    Raises:
        DamagedError: one row, or one page, decodes to too much; or a header is damaged.
    """
    chunks = []
    for number, leaf in leaves(schema, set(columns)):
        start, end = group.places[number]
        if start < 0:
            raise DamagedError(f"no place of the column {leaf.path[:80]!r}")
        chunk = _read_chunk(file, leaf, start, end, budget)
        most = MAX_BYTES_AS_LISTS if leaf.path.split(".")[0] == images else MAX_LISTS
        if chunk.lists and chunk.values > most:
            said = f"a row group has {chunk.values:,} values in lists of {leaf.path[:80]!r}"
            raise DamagedError(f"{said}; the limit is {most:,}")
        chunks.append(chunk)
    rows = ROWS
    while (cost := sum(chunk.cost(rows) for chunk in chunks)) > MAX_BATCH and rows > 1:
        rows //= 2
    if cost > 4 * MAX_BATCH:
        said = f"a row may decode to {cost:,} bytes"
        raise DamagedError(f"{said}; the limit is {4 * MAX_BATCH:,}")
    return rows


def leaves(schema: Any, columns: set[str]) -> Iterator[tuple[int, Any]]:
    """Yield (number, ColumnSchema) of the stored columns that make up `columns`."""
    for number in range(len(schema)):
        leaf = schema.column(number)
        if leaf.path in columns or any(leaf.path.startswith(f"{name}.") for name in columns):
            yield number, leaf


def _read_chunk(file: BinaryIO, leaf: Any, at: int, end: int, budget: Budget) -> _Chunk:
    """Return what the page headers of one column of a row group say; they are in `at`..`end`."""
    values = largest = total = pages = 0
    repeats, counts = False, []
    while at < end:
        pages += 1
        if pages > MAX_PAGES:
            raise DamagedError(f"a column of more than {MAX_PAGES:,} pages in one row group")
        header, size = _page(file, at, end)
        plain, packed = (whole(header.get(field)) for field in (2, 3))
        if plain < 0 or packed < 0 or at + size + packed > end:
            raise DamagedError(f"a damaged page at byte {at:,}")
        if plain > MAX_PAGE:
            raise DamagedError(
                f"a page of {plain:,} bytes at byte {at:,}; the limit is {MAX_PAGE:,}"
            )
        budget.spend(plain)
        largest, total, at = max(largest, plain), total + plain, at + size + packed
        for field, encoding in ((5, 2), (8, 4)):  # both versions of a page of data
            if isinstance(data := header.get(field), dict):
                if (count := whole(data.get(1))) < 0:
                    raise DamagedError(f"a damaged page at byte {at:,}")
                values += count
                counts.append(count)
                repeats |= data.get(encoding) not in _PLAIN
    width = leaf.length if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" else 0
    return _Chunk(
        width=_WIDTHS.get(leaf.physical_type, max(width, 0)),
        lists=leaf.max_repetition_level > 0,
        values=values,
        largest=largest,
        total=total,
        repeats=repeats,
        fewest=min(counts[:-1] or counts or [1]),
    )


def _page(file: BinaryIO, at: int, end: int) -> tuple[dict[int, Any], int]:
    """Return (the header of the page at `at`, its size)."""
    for size in _HEADERS:
        file.seek(at)
        reader = Reader(file.read(min(size, end - at)))
        try:
            return reader.struct(), reader.at
        except IndexError:
            if size > end - at:
                break
        except ThriftError:
            break
    raise DamagedError(f"a damaged page header at byte {at:,}")
