"""`--json FILE` and `--json -`: a command's figures as JSON, in a file or on stdout."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.io.files import check_file, json_bytes, write_json

STDOUT = Path("-")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json to a command that reports figures."""
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the figures as JSON; - writes them to stdout, and nothing else goes there",
    )


def check_json(target: Path | None) -> None:
    """Raise, before the work, where the figures could not be written; see `check_file`."""
    if target != STDOUT:
        check_file(target, "--json")


@contextlib.contextmanager
def reporting(target: Path | None) -> Iterator[Callable[[dict], None]]:
    """Yield the function that takes a command's figures and writes them where --json says.

    With `--json -`, everything that the block prints goes to stderr, also what C libraries and
    child processes print. The figures go to stdout when the block has ended without an error.
    """
    if target != STDOUT:
        yield lambda figures: write_json(target, figures)
        return
    given: list[dict] = []
    with _stdout_to_stderr():
        yield given.append
    for figures in given:
        sys.stdout.write(json_bytes(figures, sort_keys=True).decode())
    sys.stdout.flush()


def tell_json(value: object) -> None:
    """Print a value as one line of JSON on stdout, of which all is ASCII."""
    sys.stdout.write(f"{json.dumps(value)}\n")


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what the block prints to stderr, from Python and through the file descriptor."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        number, other = sys.stdout.fileno(), sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):  # a caller has replaced one of them
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    kept = os.dup(number)
    os.dup2(other, number)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, number)
        os.close(kept)
