"""The fields of a recipe as people and programs read them: text, Markdown, YAML and JSON.

Rows are those of `cv3jax.fields.rows`. JAX is not imported.
"""

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from cv3jax.fields import Row

COLUMNS = ("field", "value", "type", "range", "meaning")
# columns in characters, but for the last, which is the rest
WIDE, NARROW = (None, 24, 14, 26), (None, 17, 14, 21)
LEAST = 40  # characters of a meaning beside its field; with fewer it stands below


def by_section(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Yield (section, its rows); the section of top-level fields is empty."""
    for section, group in itertools.groupby(rows, lambda row: row.name.rpartition(".")[0]):
        yield section, list(group)


def shown(value: Any) -> str:
    """Return a value as it is given at the command line; no value is shown as "none"."""
    if value is None:
        return "none"
    if isinstance(value, list):
        value = tuple(value)
    return value or '""' if isinstance(value, str) else str(value)


def value_of(row: Row) -> str:
    """Return a row's value, and the recipe's own where that is another."""
    return shown(row.value) + (f" (recipe: {shown(row.own)})" if row.changed else "")


def text(rows: Sequence[Row], width: int) -> str:
    """Return an aligned table for a terminal of `width` characters, a heading for each section.

    In a narrow terminal the meaning of a field stands below it.
    """
    widths = _widths(rows, WIDE)
    last = width - sum(widths) - 2 * len(widths)
    below = last < LEAST
    if below:
        widths, last = _widths(rows, NARROW), 0
    lines = [_line(COLUMNS[: 4 if below else 5], widths)]
    for section, group in by_section(rows):
        lines += ["", section] if section else []
        for row in group:
            sizes = (*widths, *(() if below else (last,)))
            wrapped = [
                textwrap.wrap(cell, size, break_on_hyphens=False) or [""]
                for cell, size in zip(_cells(row), sizes, strict=False)
            ]
            lines += [
                _line(parts, widths) for parts in itertools.zip_longest(*wrapped, fillvalue="")
            ]
            if below:
                meaning = textwrap.wrap(row.meaning, width - 6, break_on_hyphens=False)
                lines += [f"      {line}" for line in meaning]
    return "\n".join(lines)


def _widths(rows: Sequence[Row], most: Sequence[int | None]) -> list[int]:
    cells = [_cells(row) for row in rows]
    longest = (max(len(row[column]) for row in (*cells, COLUMNS)) for column in range(len(most)))
    return [min(size, limit or size) for size, limit in zip(longest, most, strict=True)]


def _cells(row: Row) -> tuple[str, ...]:
    inner = row.name.rpartition(".")
    return ("  " + inner[2] if inner[0] else row.name), value_of(row), *row[2:5]


def _line(parts: Sequence[str], widths: Sequence[int]) -> str:
    padded = [part.ljust(size) for part, size in zip(parts, widths, strict=False)]
    return "  ".join([*padded, *parts[len(widths) :]]).rstrip()


def markdown(rows: Sequence[Row]) -> str:
    """Return Markdown: a heading and a table for each section, values as code."""
    parts = []
    for section, group in by_section(rows):
        parts.append(f"### `{section}`\n" if section else "### Top level\n")
        parts.append("| field | default | type | range | meaning |\n|---|---|---|---|---|")
        for row in group:
            cells = (f"`{row.name}`", f"`{value_of(row)}`", *row[2:5])
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts[-1] += "\n"
    return "\n".join(parts)


def as_yaml(rows: Sequence[Row]) -> str:
    """Return YAML of the fields' values, each with its meaning and range as a comment.

    A changed field also has the recipe's own value.
    """
    lines = []
    for section, group in by_section(rows):
        lines += ["", f"{section}:"] if section else []
        indent = "  " if section else ""
        for row in group:
            changed = f"CHANGED from {shown(row.own)}. " if row.changed else ""
            pair = f"{indent}{row.name.rpartition('.')[2]}: {_scalar(row.value)}"
            lines.append(f"{pair}  # {changed}{row.meaning} ({row.range})")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """Return a value as one line of YAML."""
    value = list(value) if isinstance(value, tuple) else value
    dumped = yaml.safe_dump([value], default_flow_style=True, width=10**9, allow_unicode=True)
    return dumped.strip()[1:-1]


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a plain dictionary for each row; "recipe" is there where the value was changed."""
    return [
        {
            "field": row.name,
            "value": row.value,
            "type": row.type,
            "range": row.range,
            "meaning": row.meaning,
            **({"recipe": row.own} if row.changed else {}),
        }
        for row in rows
    ]
