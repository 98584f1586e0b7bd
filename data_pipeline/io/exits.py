"""From what ended a command to what it says and its exit code: the one table of them."""

import sys

from data_pipeline.io.errors import FailedRunError, InputError, StoppedError


def line_and_code(e: BaseException) -> tuple[str, int] | None:
    """The line and the exit code of what ended a command; None for what is a mistake of ours.

    2: bad input, nothing was done. 1: the run could not go on (a full disk, a loss that is not
    finite). 143, 130: SIGTERM, Ctrl-C. The same command goes on after all but the first.
    """
    if isinstance(e, InputError):
        return _line(e), 2
    if isinstance(e, FailedRunError):
        return _line(e), 1
    if isinstance(e, StoppedError):
        return _line(e), 128 + e.signal
    if isinstance(e, KeyboardInterrupt):
        return "interrupted; run the same command to continue", 130
    if isinstance(e, OSError):
        return _line(f"{e.filename}: {e.strerror}" if e.filename else e.strerror or e), 1
    return None


def say(message: object) -> None:
    """Says a line about the command on stderr."""
    print(f"cv3jax: {_line(message)}", file=sys.stderr)


def _line(message: object) -> str:
    return " ".join(str(message).split())
