"""Command lines whose mistakes are one line: a parser that raises InputError, checks before the
work, and the last resort.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from data_pipeline.io.errors import InputError


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
    """Runs a program's main; bad input ends in one line on stderr and exit 2, the system's errors
    in one and exit 1, as under `cv3jax`.
    """
    try:
        command()
    except InputError as e:
        print(f"cv3jax: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as e:
        print(
            f"cv3jax: {e.filename}: {e.strerror}" if e.filename else f"cv3jax: {e}", file=sys.stderr
        )
        sys.exit(1)
