"""Command lines whose mistakes are one line: a parser that raises InputError, checks before the
work, and the last resort.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from data_pipeline.io.errors import InputError
from data_pipeline.io.exits import line_and_code, say, say_anything

# Path makes one slash of two; the other is how ssh, scp and rsync name a place
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/|[^/@\s]+@[^/@:\s]+:[^\d\s]")


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


def check_name(text: str, what: str = "") -> None:
    """Refuse what is no name of a file or folder of this machine, where `what` was given as one.

    Raises:
        InputError: an address such as gs://bucket/x or me@host:x, or what a shell should have
            replaced: to the system each is the name of a folder below this one.
    """
    what = f"{what} {text}".strip()
    if _ADDRESS.match(str(text)):
        raise InputError(
            f"{what}: only a path of this machine is read and written here; copy it, or mount its"
            " store and give the path"
        )
    if str(text) == "~" or str(text).startswith("~/"):
        raise InputError(f"{what}: the shell did not replace ~ here; write the whole path")
    if not str(text).strip():
        raise InputError(f"{what or 'a path'}: is empty; give a path, . for this folder")


def local(text: str, what: str = "") -> Path:
    """A path of this machine's file systems, where `what` was given as one.

    Raises:
        InputError: see `check_name`; or libraries cannot write it.
    """
    check_name(text, what)
    what = f"{what} {text}".strip()
    if os.path.abspath(text).encode(errors="replace").decode() != os.path.abspath(text):
        raise InputError(
            f"{what}: not every byte of {os.path.abspath(text)!r} is UTF-8, as the libraries that"
            " read and write there have it; rename it"
        )
    return Path(text)


def _path(text: str) -> Path:
    """`local` for argparse, which says the flag's name itself."""
    try:
        return local(text)
    except InputError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


class Parser(argparse.ArgumentParser):
    """Raises InputError for a wrong flag, like all bad input, instead of printing the usage.

    Subcommands' parsers do too. Flags of `type=Path` are `local`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register("type", Path, _path)

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
    say_anything()
    try:
        command()
    except (Exception, KeyboardInterrupt) as e:
        ended = line_and_code(e)
        if ended is None:
            raise
        line, code = ended
        say(line)
        sys.exit(code)
