"""Tables as Markdown and as a page, in the layout of CogView3's paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cv3jax.evaluation.tables.cells import Cell, Made
from cv3jax.evaluation.tables.published import SOURCE
from cv3jax.evaluation.tables.settings import PLAIN, STEPS, TIME, Tables, figure_of, set_of
from data_pipeline.io.files import replacing

MARKDOWN, PAGE = "tables.md", "tables.html"
HERE = Path(__file__).parent  # the directory of the template
REMARK = (
    "The paper states neither the files of its metrics nor its GPU. Its time is of four pictures at"
    " once, in seconds"
)
NOT_MEASURED = "not measured"
_SETS = {
    "drawbench": "DrawBench",
    "partiprompts": "PartiPrompts",
    "coco5k": "MS-COCO 5k",
    "scenes": "Scenes",
}
_FIGURES = {
    "aes": "Aes ↑",
    "hps": "HPS v2 ↑",
    "hps21": "HPS v2.1 ↑",
    "imagereward": "ImageReward ↑",
    "clip": "CLIP ↑",
    "fid": "FID ↓",
    "fdlite": "FD-EffLite0 ↓",
}
_DIGITS = {"aes": 2, "fid": 2, "fdlite": 2, TIME: 2}


def markdown(tables: Sequence[Made], settings: Tables, notes: Sequence[Mapping[str, str]]) -> str:
    """Return the tables as Markdown, with the commands that measure what is missing.

    notes: of `notes_of`.
    """
    lines = ["# Tables"]
    if any_published(tables):
        lines += ["", f"Published figures: {SOURCE}. {REMARK}."]
    for made in tables:
        heads = ["Model", *(heading(column) for column in made.table.columns)]
        lines += ["", f"## {made.table.title}", "", _line(heads)]
        lines.append(_line(["---", *("---:" for _ in made.table.columns)]))
        for row, cells in made.cells.items():
            shown = [said(cell, column) for column, cell in cells.items()]
            lines.append(_line([settings.rows[row].label, *shown]))
        hashes = [f"{heading(one)} `{sha[:12]}`" for one, sha in made.protocols.items()]
        lines += ["", f"Scoring protocols: {', '.join(hashes)}"] if hashes else []
    if notes:
        lines += ["", "## Not measured", ""]
        for note in notes:
            why = f" ({note['why']})" if note["why"] else ""
            lines += [f"{note['label']}, {note['set']}{why}:", "", "```sh", note["command"], "```"]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def any_published(tables: Sequence[Made]) -> bool:
    """Return whether a cell has a published figure."""
    rows = (cells.values() for made in tables for cells in made.cells.values())
    return any(cell.published is not None for cells in rows for cell in cells)


def write_page(
    path: Path, tables: Sequence[Made], settings: Tables, notes: Sequence[Mapping[str, str]]
) -> None:
    """Write the tables as a page; all text is escaped, and no script is in it."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [
        {
            "title": made.table.title,
            "groups": groups(made.table.columns),
            "heads": [_short(column) for column in made.table.columns],
            "rows": [
                {
                    "label": settings.rows[row].label,
                    "cells": [_parts(cell, column) for column, cell in cells.items()],
                }
                for row, cells in made.cells.items()
            ],
            "protocols": [(heading(one), sha) for one, sha in made.protocols.items()],
        }
        for made in tables
    ]
    page = environment.get_template("tables.html.jinja").render(
        tables=shown,
        notes=notes,
        source=SOURCE if any_published(tables) else None,
        remark=REMARK,
        missing=NOT_MEASURED,
        style=Markup((HERE.parent / "page.css").read_text(encoding="utf-8")),
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def groups(columns: Sequence[str]) -> list[tuple[str, int]]:
    """Return the sets of prompts over the columns, each with the number of its columns."""
    found: list[tuple[str, int]] = []
    for column in columns:
        name = "" if column in PLAIN else _SETS.get(set_of(column), set_of(column))
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1] + 1)
        else:
            found.append((name, 1))
    return found


def heading(column: str) -> str:
    """Return a column's head with its set, such as "DrawBench Aes ↑"."""
    if column in PLAIN:
        return _short(column)
    return f"{_SETS.get(set_of(column), set_of(column))} {_short(column)}"


def said(cell: Cell, column: str) -> str:
    """Return a cell as Markdown: the figure with its interval, and the published one."""
    parts = _parts(cell, column)
    if parts["text"] is not None:
        return parts["text"]
    value = f"**{parts['value']}**" if parts["value"] else NOT_MEASURED
    interval = f" ({parts['interval']})" if parts["interval"] else ""
    return f"{value}{interval}" + (f"; paper {parts['published']}" if parts["published"] else "")


def _short(column: str) -> str:
    if column in PLAIN:
        return {STEPS: "Steps", TIME: "Time of 4 ↓"}[column]
    return _FIGURES.get(figure_of(column), figure_of(column))


def _parts(cell: Cell, column: str) -> dict[str, Any]:
    """Return a cell's texts: value, interval, published figure, or a text in place of them."""
    digits = _DIGITS.get(column if column in PLAIN else figure_of(column), 3)
    unit = " s" if column == TIME else ""

    def number(value: float | None) -> str | None:
        return None if value is None else f"{value:.{digits}f}"

    value, low, high, published = map(number, cell[:4])
    return {
        "value": None if value is None else value + unit,
        "interval": None if low is None else f"{low} to {high}",
        "published": None if published is None else published + unit,
        "text": cell.text,
    }


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
