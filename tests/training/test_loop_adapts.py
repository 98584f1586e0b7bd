"""Test the loop around the first step, and what it does for runs that adapt a trained stage."""

import dataclasses
import signal

import pytest
import toy_runs
from toy_runs import CADENCE

from cv3jax.checkpoints import runs
from cv3jax.training import loop


def test_a_signal_while_programs_are_compiled_ends_at_once_and_promises_nothing(tmp_path, capfd):
    work, state = toy_runs.toy_work()

    def compile():
        signal.raise_signal(signal.SIGINT)

    work = dataclasses.replace(work, compile=compile)
    with pytest.raises(KeyboardInterrupt):
        loop.train_loop(work, tmp_path, state, CADENCE, {})
    assert "with a checkpoint" not in capfd.readouterr().err
    assert not runs.steps(tmp_path / "checkpoints")


def test_what_was_before_is_drawn_before_the_first_step_of_each_sitting(tmp_path):
    given, seen = [], dataclasses.replace(CADENCE, preview=4)
    for steps in (4, 8, 8):
        work, state = toy_runs.toy_work()
        work = dataclasses.replace(work, before=given.append)
        loop.train_loop(work, tmp_path, state, dataclasses.replace(seen, steps=steps), {})
    assert len(given) == 2  # the third has no step
    assert given[0] is not None
    assert given[1] is None  # the EMA at hand is trained


def test_every_checkpoint_has_its_export_where_a_run_asks_for_it(tmp_path):
    work, state = toy_runs.toy_work()
    there = []

    def export(ema):
        there.append(runs.steps(tmp_path / "checkpoints")[-1])

    work = dataclasses.replace(work, export=export, exports_all=True)
    loop.train_loop(work, tmp_path, state, CADENCE, {})
    assert there == [2, 4, 6]  # each is on the disk first; the last is written by the run
