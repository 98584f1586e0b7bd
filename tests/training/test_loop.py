"""Test the training loop around the steps: delayed metrics, time accounts and traces."""

import dataclasses
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import jax
import pytest
import subprocesses
import toy_runs
from toy_runs import CADENCE, numbers, toy

from cv3jax import recipes
from cv3jax.training import goodput, loop, profiling
from cv3jax.training.goodput import Account
from cv3jax.training.metrics import read_lines
from cv3jax.training.parsing import parse_stage
from data_pipeline.io.errors import InputError


# at the steps that are saved, and at the last, the state is needed anyway
@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (False, {1: 2, 2: 3, 3: 4, 4: 4, 5: 6, 6: 7, 7: 8, 8: 8, 9: 9}),
        (True, {step: step for step in range(1, 10)}),
    ],
    ids=["running", "ended"],
)
def test_metrics_are_read_while_the_next_step_runs_or_before_it_where_they_are_there(
    ended, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "_ended", lambda metrics: ended)
    dispatched, looks = [], {}
    look = loop._look
    monkeypatch.setattr(
        loop,
        "_look",
        lambda step, *rest: looks.update({step: len(dispatched)}) or look(step, *rest),
    )

    def wrap(step_fn):
        def counted(state, batch):
            out = step_fn(state, batch)
            dispatched.append(None)
            return out

        return counted

    toy(tmp_path, wrap=wrap, cadence=dataclasses.replace(CADENCE, steps=9, log=1, save=4))
    assert looks == expected


class Clock:
    """Keep a time that moves only on request.

    The ends of steps are noted in the order in which they are waited for.
    """

    def __init__(self, monkeypatch):
        self.time = 0.0
        monkeypatch.setattr(goodput, "now", lambda: self.time)


class Ends:
    """Stand in for the thread that notes when steps end; `metrics` is the time at which it does."""

    def submit(self, function, metrics):
        future = Future()
        future.set_result(metrics)
        return future

    def shutdown(self, **_):
        pass


def test_time_is_accounted_for_by_what_the_devices_waited_for(monkeypatch):
    clock = Clock(monkeypatch)
    account = Account()
    account._watch = Ends()

    def during(kind, seconds):
        with account.doing(kind):
            clock.time += seconds

    account.add({"step": 100.0, "data": 5.0})
    during("data", 2)
    during("step", 1)
    account.started(13.0)  # runs from 3 to 13
    during("data", 4)  # hidden behind it
    account.started(23.0)  # dispatched at 7, begins when the first ends
    account.finished()
    assert account.line() == {
        "seconds": 118.0,
        "seconds_step": 111.0,
        "seconds_data": 7.0,
        "seconds_checkpoint": 0.0,
        "seconds_preview": 0.0,
        "seconds_evaluation": 0.0,
        "seconds_compile": 0.0,
        "seconds_other": 0.0,
        "goodput": 11 / 13,
        "data_wait": 2 / 13,
    }
    during("data", 18)  # until 25: two seconds too long
    clock.time += 1
    account.finished()
    during("checkpoint", 5)
    account.started(41.0)  # at 31
    account.finished()
    line = account.line()
    assert line["goodput"] == 20 / 28
    assert line["data_wait"] == 2 / 28
    assert account.seconds == {
        "step": 131.0,
        "data": 9.0,
        "checkpoint": 5.0,
        "preview": 0.0,
        "evaluation": 0.0,
        "compile": 0.0,
        "other": 1.0,
    }
    clock.time = 41.0
    during("preview", 3)
    account.close()
    assert account.seconds["preview"] == 3.0
    assert account.total() == 105 + 44


def test_a_run_says_where_its_time_went(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)

    class Now(Ends):
        def submit(self, function, metrics):
            return super().submit(function, function(metrics))

    init = Account.__init__
    monkeypatch.setattr(
        Account, "__init__", lambda self: init(self) or setattr(self, "_watch", Now())
    )

    def slow(step):
        def slower(*args):
            clock.time += 1.0
            return step(*args)

        return slower

    def place(batch):  # a part of the wait for data
        clock.time += 2.0
        return jax.device_put(batch)

    data = type(numbers())
    following = data.__next__
    monkeypatch.setattr(
        data, "__next__", lambda self: setattr(clock, "time", clock.time + 8) or following(self)
    )
    saved = loop.runs.save
    monkeypatch.setattr(
        loop.runs,
        "save",
        lambda *args: setattr(clock, "time", clock.time + 100) or saved(*args),
    )
    toy(tmp_path, wrap=slow, place=place, cadence=dataclasses.replace(CADENCE, log=4, save=6))
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [4, 6, 8]
    assert [line["seconds_data"] for line in lines] == [40, 60, 80]
    assert [line["seconds_compile"] for line in lines] == [1, 1, 1]  # the first call compiles
    assert [line["seconds_step"] for line in lines] == [3, 5, 7]
    assert [line["seconds_checkpoint"] for line in lines] == [0, 0, 100]
    assert [line["seconds"] for line in lines] == [44, 66, 188]
    assert [line["goodput"] for line in lines] == [3 / 44, 2 / 22, 2 / 122]
    assert [line["data_wait"] for line in lines] == [40 / 44, 20 / 22, 20 / 122]
    # resumes where it was, and compiles anew
    toy(tmp_path, wrap=slow, place=place, cadence=dataclasses.replace(CADENCE, steps=10, log=1))
    later = read_lines(tmp_path / "metrics.jsonl")[-1]
    assert later["step"] == 10
    assert [later[f"seconds_{kind}"] for kind in ("data", "step", "compile", "checkpoint")] == [
        100,
        8,
        2,
        100,
    ]
    assert later["seconds"] == 210


def test_what_the_devices_raise_comes_out_of_the_loop(tmp_path):
    def wrap(step):
        def fails(state, batch):
            state, metrics = step(state, batch)
            return state, {
                **metrics,
                "loss": jax.pure_callback(
                    lambda x: 1 / 0, jax.ShapeDtypeStruct((), "float32"), metrics["loss"]
                ),
            }

        return fails

    with pytest.raises(Exception, match="division by zero"):
        toy(tmp_path, wrap=wrap)


def toy_alone(workdir, cadence):
    """Run `toy` in a process of its own.

    The profiler crashes if another test has loaded libtpu.
    """
    code = f"""
from pathlib import Path
from cv3jax.training.loop import Cadence
from cv3jax.training.skipping import Skip
from cv3jax.training.train_settings import Local
from toy_runs import toy
toy(Path({str(workdir)!r}), cadence={cadence})
"""
    environment = subprocesses.environment(PYTHONPATH=str(Path(toy_runs.__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_trace_names_its_steps(tmp_path):
    toy_alone(tmp_path, dataclasses.replace(CADENCE, profile=range(3, 6)))
    (trace,) = (tmp_path / "profile" / "plugins" / "profile").glob("*/*.xplane.pb")
    events = [
        event
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes
        for line in plane.lines
        for event in line.events
    ]
    assert sorted(dict(event.stats)["step_num"] for event in events if event.name == "train") == [
        3,
        4,
        5,
    ]
    assert any("train_step" in event.name for event in events)


def test_a_run_that_ends_among_the_traced_steps_writes_what_it_has(tmp_path):
    toy_alone(tmp_path, dataclasses.replace(CADENCE, steps=4, profile=range(4, 100)))
    assert len(list((tmp_path / "profile" / "plugins" / "profile").glob("*/*.xplane.pb"))) == 1


@pytest.mark.parametrize("steps", ["10", "0:4", "15:10", "a:b", "10:15:1"])
def test_a_range_of_steps_that_is_none_is_refused(steps):
    parse_stage(recipes.load("scenes_vae", ["--config.profile.steps=2:4"]))
    with pytest.raises(
        InputError,
        match=(
            rf"config\.profile\.steps = {steps}: must be the first and the last step to trace,"
            r" such as 10:15"
        ),
    ):
        parse_stage(recipes.load("scenes_vae", [f"--config.profile.steps={steps}"]))


def test_a_trace_that_would_crash_is_refused(monkeypatch):
    monkeypatch.setattr(profiling.importlib.util, "find_spec", lambda name: name == "libtpu")
    profiling.check_profiler(range(1, 2))  # JAX_PLATFORMS is set
    platforms = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", None)
        profiling.check_profiler(None)
        with pytest.raises(
            InputError,
            match=(
                r"config\.profile\.steps: libtpu is installed, but this machine has no device"
                r" for it; set JAX_PLATFORMS"
            ),
        ):
            profiling.check_profiler(range(1, 2))
    finally:
        jax.config.update("jax_platforms", platforms)
