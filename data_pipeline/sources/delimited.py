"""Reading the rows of a .csv file of any dialect: each row is read, or is reported as damaged.

The encoding, the separator, spaces after it and escaped quotes are inferred from the whole file. A
row must have as many cells as the header. A row that has not, or whose quote does not close, is
damaged alone: the lines after its first are read again as rows of their own.
"""

import collections
import csv
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.io.errors import InputError
from data_pipeline.sources import items
from data_pipeline.sources.fields import FILES, KNOWN, from_cell, plain_name
from data_pipeline.sources.texts import HAS_NULS, bounded_lines, encoding_of, not_text, tidy

_SEPARATORS = (",", ";", "\t", "|")
_TOO_LONG = "a line or row of more than {:,} characters"


@dataclasses.dataclass(frozen=True)
class Form:
    """The dialect of a .csv file.

    Attributes:
        encoding: the codec.
        first: the number of lines before the first row: the header and what is above it.
        header: the names of the columns.
        separator: the character between cells.
        escapes: whether a backslash escapes a quote; otherwise only a second quote does.
        spaces: whether spaces after a separator are not part of the cell.
    """

    encoding: str
    first: int
    header: tuple[str, ...]
    separator: str
    escapes: bool = False
    spaces: bool = False

    def cells(self, lines: Iterator[str], strict: bool = True) -> list[str]:
        """Return the cells of one row, which takes as many lines as it needs.

        Raises csv.Error and StopIteration as the csv module does.
        """
        csv.field_size_limit(items.MAX_TEXT_BYTES)
        return next(
            csv.reader(
                lines,
                delimiter=self.separator,
                escapechar="\\" if self.escapes else None,
                skipinitialspace=self.spaces,
                strict=strict,
            )
        )


class _DamagedRowError(Exception):
    """A row cannot be read; the message says why."""


def read_csv(table: Path) -> Iterator[tuple[int, dict[str, str | float] | str]]:
    """Yield (line, the row's fields or what is wrong with it) for each row that has any text.

    Raises:
        InputError: the file is neither UTF-8 nor marked as UTF-16, or its header names no column of
            file names.
    """
    form = find_form(table)
    for number, cells in _rows(table, form):
        if not isinstance(cells, str):
            pairs = zip(form.header, cells, strict=True)
            cells = {name: from_cell(name, cell) for name, cell in pairs}
        yield number, cells


def find_form(table: Path) -> Form:
    """Return the dialect of a .csv file: the possible one with the fewest damaged rows.

    Raises:
        InputError: see `read_csv`.
    """
    with table.open("rb") as file:
        encoding = encoding_of(file.read(4))
    form = _with_header(table, encoding)
    damaged = _damaged(table, form)
    signs = {"escapes": '\\"', "spaces": f'{form.separator} "'}
    for change in ({"spaces": True}, {"escapes": True}, {"spaces": True, "escapes": True}):
        if damaged and all(_has(table, encoding, signs[name]) for name in change):
            other = dataclasses.replace(form, **change)
            if (count := _damaged(table, other)) < damaged:
                form, damaged = other, count
    return form


def _with_header(table: Path, encoding: str) -> Form:
    """Return the dialect by the header alone. Raises InputError as `read_csv` does."""
    separators, line, above = _SEPARATORS, "", 0
    for text in _lines(table, encoding):
        line, above = (text or "").rstrip("\r\n"), above + 1
        if (said := tidy(line).strip('"').lower()).startswith("sep=") and len(said) <= 5:
            separators = (said[4:] or "\t",)  # `tidy` removes a tab at the end
        elif said:
            break
    forms = []
    for separator in separators:
        form = Form(encoding, above, (), separator, spaces=True)
        try:
            names = tuple(tidy(name) for name in form.cells(iter([line])))
        except (csv.Error, StopIteration):
            continue
        forms.append(Form(encoding, above, names, separator))
    known = [len(KNOWN & set(map(plain_name, form.header))) for form in forms]
    best = forms[known.index(max(known))] if forms else None
    plain = [plain_name(name) for name in best.header] if best else []
    if not set(FILES) & set(plain):
        raise InputError(
            f"{table} has no header with a column of file names ({', '.join(FILES)}): its first"
            f" line is {line[:80]!r}; begin the file with a line such as file_name,caption,url"
        )
    if twice := [name for name, n in collections.Counter(plain).items() if n > 1 and name]:
        raise InputError(
            f"{table} has two columns named {twice[0]!r}; remove or rename one of them"
        )
    return best


def _lines(table: Path, encoding: str) -> Iterator[str | None]:
    """Yield the lines, with None for a line that is too long.

    Raises:
        InputError: a byte is not valid in the encoding, or is a NUL.
    """
    number = 0
    with table.open(encoding=encoding, newline="") as file:
        try:
            for number, line in enumerate(bounded_lines(file, items.MAX_TEXT_BYTES), 1):
                if line and "\0" in line:
                    raise InputError(f"{table}, line {number}: {HAS_NULS}")
                yield line
        except UnicodeError as e:
            where = _wrong_line(table) if encoding.startswith("utf-8") else f"after line {number}"
            raise InputError(f"{table}: {not_text(encoding, where)}") from e


def _wrong_line(table: Path) -> str:
    """Return which line is not UTF-8, as words for a message.

    The decoder reads ahead, so it cannot say which line it was.
    """
    with table.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as e:
                return f"line {number} has the byte 0x{line[e.start]:02x}"
    return "at its end"


def _rows(table: Path, form: Form) -> Iterator[tuple[int, list[str] | str]]:
    """Yield (number of its first line, its cells or what is wrong with it) for each row."""
    rest, again = _lines(table, form.encoding), collections.deque()
    for _ in range(form.first):
        next(rest)
    number = form.first + 1
    while True:
        taken: list[str | None] = []
        try:
            cells = form.cells(_taking(form, again, rest, taken))
            empty = not any(map(tidy, cells))
            if not empty and len(cells) != len(form.header):
                raise _DamagedRowError(
                    f"{len(cells)} cells where the header has {len(form.header)}"
                )
        except StopIteration:
            return
        except (csv.Error, _DamagedRowError) as e:
            again.extendleft(reversed(taken[1:]))
            ended = "a quote that never closes" if "unexpected end" in str(e) else str(e)
            yield number, ended
            number += 1
            continue
        if not empty:
            yield number, cells
        number += len(taken)


def _taking(
    form: Form, again: collections.deque, rest: Iterator[str | None], taken: list[str | None]
) -> Iterator[str]:
    """Yield the next lines while they may belong to one row; add them to `taken`."""
    size = 0
    for line in itertools.chain(_popped(again), rest):
        taken.append(line)
        size += len(line or "")
        if line is None or size > items.MAX_TEXT_BYTES:
            raise _DamagedRowError(_TOO_LONG.format(items.MAX_TEXT_BYTES))
        if len(taken) > 1 and _begins_row(form, line):
            raise _DamagedRowError("a quote that does not close before the next row")
        yield line


def _popped(again: collections.deque) -> Iterator[str | None]:
    """Yield and remove the lines that are to be read again."""
    while again:
        yield again.popleft()


def _begins_row(form: Form, line: str) -> bool:
    """Return whether a line within quotes is a row itself.

    It is one if it has as many cells as the header, and an image's name in the column of file
    names.
    """
    try:
        cells = form.cells(iter([line]), strict=False)
    except (csv.Error, StopIteration):
        return False
    named = {plain_name(name): cell for name, cell in zip(form.header, cells, strict=False)}
    file = next((named[name] for name in FILES if name in named), "")
    suffix = tidy(file).lower().rpartition(".")[2]
    return len(cells) == len(form.header) and suffix in items.IMAGE_SUFFIXES


def _damaged(table: Path, form: Form) -> int:
    """Return how many rows are damaged in this dialect."""
    return sum(isinstance(cells, str) for _, cells in _rows(table, form))


def _has(table: Path, encoding: str, sign: str) -> bool:
    """Return whether any line contains `sign`."""
    return any(sign in (line or "") for line in _lines(table, encoding))
