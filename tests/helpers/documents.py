"""Read the documents: sections, tables, and the commands and commits that they name."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (
    "README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
)

# git's short name: seven hex digits with one of 0 to 9 among them, no part of a number or a word
COMMIT = re.compile(r"(?<![\w.,/\[-])(?=[a-f]*\d)[0-9a-f]{7}(?![\w%\]-])(?!\.\d)")
COMMAND = re.compile(r"benchmarks/\w+\.py|\bmake [a-z-]+|\bcv3jax [a-z]+|tests/[\w/]+\.py")
DECIMAL = re.compile(r"(?<![\w.])\d*\.\d+(?![\w.])")


class Section(NamedTuple):
    """Hold a section from one heading of the second rank to the next.

    The page's own heading begins the first.
    """

    document: str
    title: str
    text: str


def read(document: str) -> str:
    return (ROOT / document).read_text()


def flat(text: str) -> str:
    """Return a text without line breaks, bold and the padding of tables."""
    return " ".join(text.replace("**", "").split())


def sections(document: str) -> list[Section]:
    parts = re.split(r"^(?=## )", read(document), flags=re.MULTILINE)
    return [Section(document, part.partition("\n")[0].lstrip("# "), part) for part in parts if part]


def rows(text: str) -> list[tuple[str, ...]]:
    """Return the rows of a text's tables with heads, without bold, padding and rules."""
    cells = [
        tuple(cell.strip() for cell in flat(line).strip("|").split("|"))
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return [row for row in cells if not all(set(cell) <= set("-: ") for cell in row)]


def tables(text: str) -> list[list[tuple[str, ...]]]:
    """Return the tables of a text, each as its rows."""
    return [rows(found) for found in re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE)]


def in_percent(row: tuple[str, ...]) -> tuple[str, ...]:
    """Return a result's row as documents show it: shares as percentages of as many digits."""
    cells = [re.sub(r"(?<=\d)%", " %", cell) for cell in row]
    if cells[0].endswith((" found", " lost")):
        cells[1:] = [
            DECIMAL.sub(lambda share: f"{Decimal(share[0]).scaleb(2):f} %", cell)
            for cell in cells[1:]
        ]
    return tuple(cells)


def figures(text: str) -> list[tuple[str, ...]]:
    """Return the rows that have a decimal number."""
    return [row for row in rows(text) if any(DECIMAL.search(cell) for cell in row)]


def result(name: str) -> Any:
    """Return a result file as JSON; a name with a slash counts from the root."""
    return json.loads(((ROOT if "/" in name else RESULTS) / f"{name}.json").read_text())
