"""Command lines whose mistakes are one line: a parser that raises InputError, checks before the
work, and the last resort.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from data_pipeline.io.errors import InputError
from data_pipeline.io.exits import line_and_code, say


def pair(text: str | None, flag: str, kind: type, low: float, high: float) -> tuple[dict, dict]:
    """`--steps 50,12` → ({"steps": 50}, {"steps": 12}); one value serves both.

    Raises InputError outside [low, high].
    """
    if text is None:
        return {}, {}
    try:
        values = [kind(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(low <= value <= high for value in values):
        raise InputError(
            f"--{flag} {text}: give one {kind.__name__} or two with a comma, each {low}..{high}"
        )
    return {flag: values[0]}, {flag: values[-1]}


class Parser(argparse.ArgumentParser):
    """Raises InputError for a wrong flag, like all bad input, instead of printing the usage.

    Subcommands' parsers do too.
    """

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def add_output(parser: argparse.ArgumentParser) -> None:
    """--out, --shards, --overwrite of commands that write a dataset in one go."""
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="the dataset's directory; appears when complete",
    )
    parser.add_argument(
        "--shards",
        type=int,
        default=8,
        metavar="N",
        help="ArrayRecord files (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a dataset that is already there"
    )


def run(command: Callable[[], None]) -> None:
    """Runs a program's main; what ends it becomes one line on stderr and an exit code, as under
    `cv3jax`.
    """
    try:
        command()
    except (Exception, KeyboardInterrupt) as e:
        ended = line_and_code(e)
        if ended is None:
            raise
        line, code = ended
        say(line)
        sys.exit(code)
