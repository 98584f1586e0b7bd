"""The one table from an exception that ended a command to its line on stderr and its exit code."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from data_pipeline.io.address_space import used_up
from data_pipeline.io.errors import (
    FailedRunError,
    InputError,
    StoppedError,
    first_line,
    machine_error,
)
from data_pipeline.io.extras import missing
from data_pipeline.io.terminal import one_line

_ADVICE = {
    errno.EMFILE: "; raise the limit (ulimit -n) and run the same command again",
    errno.ENAMETOOLONG: "; give a shorter path",
}


def line_and_code(e: BaseException) -> tuple[str, int] | None:
    """Return the line and the exit code for an exception; None for one that is a bug.

    2: bad input; nothing was done. 1: the run could not continue (a full or failing disk, too many
    open files, no memory or thread left, a loss that is not finite). 143, 130: SIGTERM, Ctrl-C.
    After all but the first, the same command resumes the run, and launchers give it again.
    """
    if isinstance(e, InputError):
        return _refused(e)
    if isinstance(e, ModuleNotFoundError):
        line = missing(e, "this command")
        return line and (one_line(line), 2)
    if isinstance(e, FailedRunError):
        return one_line(e), 1
    if isinstance(e, StoppedError):
        return one_line(e), 128 + e.signal
    if isinstance(e, KeyboardInterrupt):
        return "interrupted; run the same command again", 130
    if isinstance(e, OSError):
        return _failed(e), 2 if e.errno == errno.ENAMETOOLONG else 1
    if line := used_up(e):
        return one_line(line), 1
    return None


def _refused(e: InputError) -> tuple[str, int]:
    """Return those of bad input, or of a failing machine where that kept it from being read."""
    cause = e.__cause__
    while cause is not None:
        if failed := machine_error(cause, getattr(cause, "filename", None) or first_line(cause)):
            return _failed(failed), 1
        cause = cause.__cause__
    if e.__cause__ is not None and (line := used_up(e.__cause__)):
        return one_line(line), 1
    return one_line(e), 2


def _failed(e: OSError) -> str:
    """Return the line for an error of the operating system."""
    said = f"{e.filename}: {e.strerror}" if e.filename else e.strerror or e
    return one_line(f"{said}{_ADVICE.get(e.errno, '')}")


def say(message: object) -> None:
    """Print one line about the command on stderr."""
    sys.stderr.write(f"cv3jax: {one_line(message)}\n")


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Write what the block has printed on stdout, before Python ends and could only complain.

    Exit with code 1 where that cannot be written: silently where its reader has closed it, as
    `head` does, and with one line for a full disk.
    """
    failed = False
    try:
        try:
            yield
        except SystemExit as e:
            failed = bool(e.code)
            raise
        finally:
            sys.stdout.flush()
    except OSError as e:
        close_output()
        if not failed and not isinstance(e, BrokenPipeError):
            say(_failed(e))
        sys.exit(1)


def close_output() -> None:
    """Drop what was printed on stdout and not yet written, and all that follows."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_anything() -> None:
    """Make stdout escape characters that its encoding lacks, as stderr does.

    So a caption that cannot be shown does not end a command whose work is done.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a caller may have replaced stdout
        sys.stdout.reconfigure(errors="backslashreplace")
