"""`cv3jax tables`: make the paper's tables of reports, its published figures beside.

The recipe names the rows, what draws each, and the columns. Reports that `cv3jax evaluate` wrote
are read. A cell without one says so, and the command that measures it is listed. Reports of unlike
protocols in one column are refused. The tables are written as Markdown and as a page.
"""

import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cv3jax import recipes
from cv3jax.commands import arguments as command_line
from data_pipeline.io import extras, locks
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import FailedRunError, counted
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.files import check_directory, replacing
from data_pipeline.io.progress import say
from data_pipeline.io.terminal import tell

if TYPE_CHECKING:
    from cv3jax.evaluation.tables.settings import Row

EXAMPLE = """cv3jax tables --config=paper_tables --out runs/tables/page
  cv3jax tables --config=scenes_tables --out runs/scenes_tables/page --measure"""
BAD_INPUT = 2  # the exit code of a command whose input is missing or wrong


def parser() -> Parser:
    """Return the parser of `cv3jax tables`."""
    made = command_line.evaluation_command("tables", __doc__, EXAMPLE, swept=False)
    command_line.add_out(made, "directory for tables.md and tables.html")
    made.add_argument(
        "--measure",
        action="store_true",
        help=(
            "first measure what is missing, one command after another, where its model and files"
            " are there"
        ),
    )
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Make the tables. Raises InputError on a recipe or reports that cannot be."""
    args, overrides = parser().parse_known_args(argv)
    check_json(args.json)
    check_directory(args.out, "--out")
    extras.check("cv3jax tables", "jinja2", extra="eval")
    from cv3jax.evaluation.tables import cells, writing
    from cv3jax.evaluation.tables.settings import parse

    settings = parse(recipes.to_json(recipes.load(args.config, overrides, ())))
    with reporting(args.json) as report, locks.hold(args.out, "--out"):
        reports, why = cells.read_all(settings), {}
        if args.measure:
            tables = [cells.make(name, settings, reports) for name in settings.tables]
            missing = dict.fromkeys(one for table in tables for one in table.missing)
            why = measure(
                {
                    one: (label(settings.rows[one[0]]), cells.words(settings, *one, reports))
                    for one in missing
                }
            )
            reports = cells.read_all(settings)
        tables = [cells.make(name, settings, reports) for name in settings.tables]
        missing = dict.fromkeys(one for table in tables for one in table.missing)
        notes = [
            {
                "label": label(settings.rows[row]),
                "set": prompts,
                "command": shlex.join(cells.words(settings, row, prompts, reports)),
                "why": why.get((row, prompts), ""),
            }
            for row, prompts in missing
        ]
        text = writing.markdown(tables, settings, notes)
        args.out.mkdir(parents=True, exist_ok=True)
        with replacing(args.out / writing.MARKDOWN) as temporary:
            temporary.write_text(text, encoding="utf-8")
        writing.write_page(args.out / writing.PAGE, tables, settings, notes)
        tell(text)
        say(f"{args.out / writing.PAGE} has {counted(len(tables), 'table')}")
        report(
            {
                "tables": {
                    name: {
                        "title": made.table.title,
                        "protocols": made.protocols,
                        "cells": {
                            row: {column: cell._asdict() for column, cell in some.items()}
                            for row, some in made.cells.items()
                        },
                    }
                    for name, made in zip(settings.tables, tables, strict=True)
                },
                "missing": notes,
            }
        )


def label(row: "Row") -> str:
    """Return a row's label with its steps."""
    return f"{row.label} ({row.steps})"


def measure(
    missing: Mapping[tuple[str, str], tuple[str, list[str]]],
) -> dict[tuple[str, str], str]:
    """Run the commands of what is missing; return why some could not, by row and set.

    missing: by row and set, the row's label and the words of its command.

    Raises FailedRunError where one ends with an error that is not of its input.
    """
    why = {}
    for (row, prompts), (name, words) in missing.items():
        say(f"{name}, {prompts}: {shlex.join(words)}")
        done = subprocess.run(
            [sys.executable, "-m", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        line = (done.stderr.strip().splitlines() or [""])[-1]
        if done.returncode == BAD_INPUT:
            why[row, prompts] = line
        elif done.returncode:
            raise FailedRunError(
                f"{name}, {prompts}: its command ended with {done.returncode}: {line}; run the same"
                " command to resume"
            )
    return why
