"""Test what a loop writes in addition to its newest checkpoints.

It keeps checkpoints at intervals, cascades and previews. A failed preview does not end the run.
"""

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest
from states import assert_equal, named_leaves
from toy_runs import CADENCE, toy, toy_work

from cv3jax.checkpoints import manifest, runs
from cv3jax.training import loop
from cv3jax.training.loop import Cadence, train_loop
from cv3jax.training.metrics import read_lines
from cv3jax.training.run import publish
from cv3jax.training.settings import TrainSettings

SEEN = dataclasses.replace(CADENCE, preview=4)


def run(workdir, cadence, **changes):
    """Run `train_loop` of the toy with fields of its Work replaced."""
    work, state = toy_work()
    return train_loop(dataclasses.replace(work, **changes), workdir, state, cadence, {})[0]


def test_a_preview_comes_when_the_checkpoint_of_its_step_is_whole_on_the_disk(tmp_path):
    found = []

    def preview(ema, step):
        newest = runs.steps(tmp_path / "checkpoints")[-1]
        found.append((step, newest, manifest.damage(tmp_path / "checkpoints" / str(newest))))
        return np.zeros((8, 8, 3), np.uint8)

    run(tmp_path, SEEN, preview=preview)
    assert found == [(4, 4, None), (8, 8, None)]


@pytest.mark.parametrize(
    "error", [RuntimeError("RESOURCE_EXHAUSTED"), OSError(28, "full"), MemoryError(), KeyError("k")]
)
def test_a_preview_that_fails_is_said_and_costs_nothing(error, tmp_path, capsys):
    def preview(ema, step):
        raise error

    state = run(tmp_path / "failing", SEEN, preview=preview)
    plain = toy(tmp_path / "plain")
    assert_equal(named_leaves(state), named_leaves(plain))
    lines = [read_lines(tmp_path / name / "metrics.jsonl") for name in ("failing", "plain")]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]
    said = capsys.readouterr().err
    for step in (4, 8):
        assert f"cv3jax: step {step}: no preview ({type(error).__name__}" in said


def test_a_preview_that_cannot_be_shown_costs_nothing_either(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop.MetricsLog, "image", lambda *_: 1 / 0)
    run(tmp_path, SEEN, preview=lambda ema, step: np.zeros((8, 8, 3), np.uint8))
    assert runs.steps(tmp_path / "checkpoints")[-1] == CADENCE.steps
    assert "no preview (ZeroDivisionError: division by zero)" in capsys.readouterr().err


def test_what_is_a_part_of_the_training_comes_before_the_checkpoint_and_ends_the_run(tmp_path):
    def evaluate(ema, step):
        if step == 8:
            raise ValueError("diverged")
        assert step not in runs.steps(tmp_path / "checkpoints")
        return np.zeros((8, 8, 3), np.uint8)

    with pytest.raises(ValueError, match="diverged"):
        run(tmp_path, SEEN, evaluate=evaluate)
    assert runs.steps(tmp_path / "checkpoints")[-1] == 6


@pytest.mark.parametrize(
    ("keep", "every", "save", "left"),
    [
        (1, 0, 2, [12]),
        (1, 4, 2, [4, 8, 12]),
        (2, 6, 2, [6, 10, 12]),
        (1, 3, 2, [3, 6, 9, 12]),  # those between two saves are made
        (1, 5, 0, [5, 10, 12]),
        (3, 100, 4, [4, 8, 12]),
    ],
)
def test_a_checkpoint_of_every_so_many_steps_stays_beside_the_newest(
    keep, every, save, left, tmp_path
):
    cadence = dataclasses.replace(CADENCE, steps=12, keep=keep, keep_every=every, save=save)
    toy(tmp_path, cadence=cadence)
    assert runs.steps(tmp_path / "checkpoints") == left
    toy(tmp_path, cadence=dataclasses.replace(cadence, steps=13))  # the next start leaves them too
    stay = {step for step in left if every and step % every == 0}
    assert stay <= set(runs.steps(tmp_path / "checkpoints"))


def test_the_cascade_is_written_on_the_way_after_the_checkpoint_and_not_twice_at_the_end(tmp_path):
    exported = []

    def export(ema):
        exported.append((float(ema["w"][0, 0]), runs.steps(tmp_path / "checkpoints")))

    run(tmp_path, dataclasses.replace(CADENCE, export=4, save=4, steps=12), export=export)
    assert len(exported) == 2
    assert len({value for value, _ in exported}) == 2  # each with the EMA of its own step


def test_a_cascade_takes_the_place_of_the_one_before_when_it_is_whole(tmp_path):
    def export(text, fails=False):
        def write(ema, directory):
            assert not directory.exists()  # of an export that was killed nothing is left
            directory.mkdir()
            (directory / "part").write_text(text)
            if fails:
                raise OSError("full")
            return {"scale": ema}

        return types.SimpleNamespace(export=write)

    assert publish(export("first"), 1.5, tmp_path) == {"scale": 1.5}
    with pytest.raises(OSError, match="full"):
        publish(export("second", fails=True), 1.5, tmp_path)
    assert (tmp_path / "cascade" / "part").read_text() == "first"
    publish(export("third"), 1.5, tmp_path)
    assert (tmp_path / "cascade" / "part").read_text() == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["cascade"]


def test_a_recipe_sets_the_loops_cadence():
    train = TrainSettings(10, 20, 30, 2, 99, 40, 50, 6, 7.0)
    cadence = Cadence.of(train, None)
    assert (cadence.keep_every, cadence.export, cadence.skip) == (40, 50, train.skip)
    assert (train.skip.most, train.skip.spike) == (6, 7.0)
    assert cadence.local == (0, None)
    local = dataclasses.replace(train, local_every=5, local_dir="/disk")
    assert Cadence.of(local, None).local == (5, Path("/disk"))
