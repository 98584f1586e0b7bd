"""Command lines whose mistakes are one line: a parser that raises InputError, checks before the
work, and the last resort.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from data_pipeline.errors import InputError


class Parser(argparse.ArgumentParser):
    """Raises InputError for a wrong flag, like all bad input, instead of printing the usage.

    Subcommands' parsers do too.
    """

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def check_file(path: Path | None, flag: str) -> None:
    """Raises InputError where `path` could not be written as a file: before the work and not after
    it.
    """
    if path is None:
        return
    if os.path.isdir(path):
        raise InputError(f"{flag} {path} is a directory; give a file")
    nearest = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
    if nearest != path and not os.path.isdir(nearest):
        raise InputError(
            f"{flag} {path}: {nearest} is a file; give a path whose directory exists or can be made"
        )
    if not os.access(nearest, os.W_OK):
        raise InputError(f"{flag} {path}: {nearest} cannot be written; give another place")


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
