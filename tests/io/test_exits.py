"""What ended a command: its line and its exit code."""

import errno
import os
import signal

import pytest

from cv3jax.distributed.preemption import DivergedError, NonFiniteLossError
from data_pipeline.io import arguments
from data_pipeline.io.errors import InputError, StoppedError
from data_pipeline.io.exits import line_and_code

FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (InputError("no such\n  file"), "no such file", 2),
        (NonFiniteLossError("the loss is nan"), "the loss is nan", 1),
        (DivergedError("further off"), "further off", 1),
        (StoppedError(signal.SIGTERM, "saved"), "SIGTERM: saved", 143),
        (KeyboardInterrupt(), "interrupted; run the same command to continue", 130),
        (OSError(errno.ENOSPC, FULL, "a/b"), f"a/b: {FULL}", 1),
        (OSError(errno.ENOSPC, FULL), FULL, 1),
        (OSError("the server is gone"), "the server is gone", 1),
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


def test_a_mistake_of_the_program_keeps_its_traceback():
    assert line_and_code(ValueError("ours")) is None
    with pytest.raises(ZeroDivisionError):
        arguments.run(lambda: 1 / 0)
