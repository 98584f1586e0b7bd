"""Test faults in training: signals, NaN, unwritable metrics and clock changes.

Nothing is lost past the last checkpoint.
"""

import dataclasses
import errno
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest
import tqdm.std
from faults import curve, ended, same
from toy_runs import CADENCE, toy

from cv3jax.checkpoints import runs
from cv3jax.training.loop import NonFiniteLossError
from cv3jax.training.metrics import MetricsLog, read_lines

# no checkpoint but the last, no line at the step of a stop
AT_END = dataclasses.replace(CADENCE, log=3, save=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return (state, metrics) of a run that was not interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    return toy(workdir, cadence=AT_END), curve(workdir)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    number, code, tmp_path, capsys, whole
):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    def send(step):
        if step == 4:
            os.kill(os.getpid(), number)

    exit_code, lines = ended(lambda: toy(tmp_path, before=send, cadence=AT_END), capsys)
    assert exit_code == code
    assert lines[-1].startswith(
        f"cv3jax: {number.name}: stopped after step 4, saved in {tmp_path}/checkpoints/4; run the"
        " same command"
    )
    assert runs.steps(tmp_path / "checkpoints") == [4]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    seen = []
    same(toy(tmp_path, before=seen.append, cadence=AT_END), whole[0])
    assert seen == [5, 6, 7, 8]
    assert curve(tmp_path) == whole[1]  # the mean over steps 4 to 6 too
    assert [line["step"] for line in whole[1]] == [3, 6, 8]


def test_a_second_signal_is_obeyed_at_once(tmp_path):
    # a shell's background job ignores it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def twice(step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            toy(tmp_path, before=twice)
    finally:
        signal.signal(signal.SIGINT, before)
    assert runs.steps(tmp_path / "checkpoints") == []


def poisoned(at: int):
    """Return a `place` that puts a NaN into batch number `at`."""
    count = 0

    def place(batch):
        nonlocal count
        count += 1
        return jax.device_put(batch * np.float32("nan") if count == at else batch)

    return place


@pytest.mark.parametrize("stop", [False, True], ids=["rarely logged", "stopped at the same step"])
def test_a_nan_from_the_data_is_noticed_and_never_saved(stop, tmp_path):
    steps = []

    def before(step):
        steps.append(step)
        if stop and step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    rarely = dataclasses.replace(CADENCE, steps=100, log=0, save=0)
    with pytest.raises(
        NonFiniteLossError,
        match=(
            "step 2: loss is nan, grad_norm is nan, param_norm is nan; the run is stopped, there is"
            " no checkpoint"
        ),
    ):
        toy(tmp_path, place=poisoned(2), before=before, cadence=rarely)
    # it is looked at before the next one where it has ended by then, else while that runs
    assert steps[-1] in ((2,) if stop else (2, 3))
    assert runs.steps(tmp_path / "checkpoints") == []


def test_metrics_that_cannot_be_written_are_one_line(tmp_path, capsys, monkeypatch, whole):
    write = MetricsLog.write
    with open("/dev/full", "a") as no_room:

        def full(self, step, values):
            if step == 6:
                self._file.close()
                self._file = no_room
            write(self, step, values)

        monkeypatch.setattr(MetricsLog, "write", full)
        code, lines = ended(
            lambda: toy(tmp_path, cadence=dataclasses.replace(AT_END, save=4)), capsys
        )
    assert (code, lines) == (1, [f"cv3jax: {tmp_path}/metrics.jsonl: {os.strerror(errno.ENOSPC)}"])
    monkeypatch.undo()
    assert runs.steps(tmp_path / "checkpoints") == [4]
    same(toy(tmp_path, cadence=AT_END), whole[0])


def test_the_clock_may_jump(tmp_path, monkeypatch, whole):
    now, offset = time.time, 0.0
    for module in (time, tqdm.std):
        monkeypatch.setattr(module, "time", lambda: now() + offset)
    elapsed = []
    close = MetricsLog.close
    monkeypatch.setattr(
        MetricsLog,
        "close",
        lambda self: elapsed.append(self._bar.format_dict["elapsed"]) or close(self),
    )

    def jump(step):
        nonlocal offset
        offset = {3: -86_400.0, 6: 10 * 86_400.0}.get(step, offset)

    cadence = dataclasses.replace(CADENCE, log=3, save=1, keep=3)
    state = toy(tmp_path, before=jump, cadence=cadence)
    same(state, whole[0])
    assert runs.steps(tmp_path / "checkpoints") == [6, 7, 8]
    seconds = [line["seconds"] for line in read_lines(tmp_path / "metrics.jsonl")]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    assert seconds[-1] < 3600
    assert 0 <= elapsed[0] < 3600
    os.utime(tmp_path / "checkpoints" / "6")  # the newest by the clock, not by its step
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    seen = []
    same(toy(tmp_path, before=seen.append, cadence=cadence), state)
    assert seen == [8]
