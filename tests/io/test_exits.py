"""Test the last line and the exit code of a command that fails."""

import errno
import io
import os
import signal
import sys

import pytest

from cv3jax import cli
from cv3jax.distributed.preemption import DivergedError, NonFiniteLossError
from data_pipeline.io import arguments
from data_pipeline.io.errors import InputError, StoppedError, machine_error
from data_pipeline.io.exits import line_and_code

FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (InputError("no such\n  file"), r"no such\n file", 2),
        (NonFiniteLossError("the loss is nan"), "the loss is nan", 1),
        (DivergedError("further off"), "further off", 1),
        (StoppedError(signal.SIGTERM, "saved"), "SIGTERM: saved", 143),
        (KeyboardInterrupt(), "interrupted; run the same command again", 130),
        (OSError(errno.ENOSPC, FULL, "a/b"), f"a/b: {FULL}", 1),
        (OSError(errno.ENOSPC, FULL), FULL, 1),
        (OSError("the server is gone"), "the server is gone", 1),
        (
            OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a/b"),
            "a/b: Too many open files; raise the limit (ulimit -n) and run the same command again",
            1,
        ),
    ],
    ids=repr,
)
def test_what_ends_a_command_is_one_line(error, line, code, capsys):
    assert line_and_code(error) == (line, code)

    def command():
        raise error

    with pytest.raises(SystemExit) as ended:
        arguments.run(command)
    assert ended.value.code == code
    assert capsys.readouterr().err == f"cv3jax: {line}\n"


def refused(cause: Exception) -> InputError:
    """Raise InputError because of `cause`, as a parser's caller does."""
    try:
        raise InputError("a/b is damaged; get it again") from cause
    except InputError as e:
        return e


# what a library says, and the number that is in it
OF_THE_MACHINE = [
    (OSError(errno.ESTALE, os.strerror(errno.ESTALE), "a/b"), errno.ESTALE),
    (OSError(errno.EIO, os.strerror(errno.EIO)), errno.EIO),
    (RuntimeError("open() failed: Too many open files; opening a/b"), errno.EMFILE),
    (RuntimeError("pread() failed: Input/output error; reading a/b; at byte 7"), errno.EIO),
    (ValueError("FAILED_PRECONDITION: Error opening [source='x' os_error_code='28']"), 28),
    (Exception("Error while deserializing: I/O error: Cannot allocate (os error 12)"), 12),
    (RuntimeError("[Errno 107] Transport endpoint is not connected: 'a/b'"), errno.ENOTCONN),
]


@pytest.mark.parametrize(("error", "code"), OF_THE_MACHINE, ids=repr)
def test_what_the_machine_failed_to_read_is_not_bad_input(error, code):
    failed = machine_error(error, "a/b")
    assert (failed.errno, failed.strerror, failed.filename) == (code, os.strerror(code), "a/b")
    line, ended = line_and_code(refused(error))
    assert ended == 1
    assert os.strerror(code) in line
    assert "damaged" not in line
    assert line_and_code(refused(refused(error))) == (line, ended)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a/b"),
        OSError("image file is truncated"),
        OSError(errno.EINVAL, os.strerror(errno.EINVAL)),
        RuntimeError("Corrupted Riegeli/records file: chunk header hash mismatch; at byte 4504"),
        ValueError("Expecting value: line 1 column 1 (char 0)"),
        RuntimeError("open() failed: No such file or directory; opening a/b"),
    ],
    ids=repr,
)
def test_what_is_wrong_with_a_file_is_bad_input(error):
    assert machine_error(error, "a/b") is None
    assert line_and_code(refused(error)) == ("a/b is damaged; get it again", 2)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("run", [arguments.run, lambda f: cli.run_command(lambda _: f())])
def test_what_stdout_cannot_show_is_escaped(encoding, run, monkeypatch):
    """A caption may contain it, and is printed after the dataset was published."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    run(lambda: print("Bär, 熊 → \udcff"))
    sys.stdout.flush()
    assert written.getvalue().decode(encoding, "strict").endswith(" \\udcff\n")
    assert ("熊" if encoding == "utf-8" else "\\u718a") in written.getvalue().decode(encoding)


def test_a_mistake_of_the_program_keeps_its_traceback():
    assert line_and_code(ValueError("ours")) is None
    with pytest.raises(ZeroDivisionError):
        arguments.run(lambda: 1 / 0)
