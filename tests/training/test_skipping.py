"""Test skipped updates: their effect, their count, and when they end a run.

A run without the option must be unchanged.
"""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from states import assert_equal, leaves, named_leaves
from toy_runs import CADENCE, squares, toy, toy_work

from cv3jax.optim import optimizers
from cv3jax.training import skipping
from cv3jax.training.loop import NonFiniteLossError
from cv3jax.training.metrics import read_lines
from cv3jax.training.skipping import Skip, fresh_norms, judge
from cv3jax.training.train_step import create_state, make_train_step

EACH = dataclasses.replace(CADENCE, log=1, save=1, steps=6, keep=9)
SKIP = Skip(3)
BAD = {  # a batch → one whose loss, whose gradient, or only the length of whose gradient is bad
    "nan": lambda batch: batch * jnp.nan,
    "infinite": lambda batch: batch + jnp.inf,
    "overflowing": lambda batch: batch * 1e25,
    "long": lambda batch: batch * 1e4,
}


def spoilt(which: dict[int, str], start: int = 1):
    """Return a `place` of a loop from step `start` that spoils the batches of these steps."""
    count = itertools.count(start)

    def place(batch):
        kind = which.get(next(count))
        return jax.device_put(batch if kind is None else np.asarray(BAD[kind](batch)))

    return place


def skip_toy(workdir, which, *, skip=SKIP, cadence=EACH, start=1):
    return toy(workdir, place=spoilt(which, start), cadence=dataclasses.replace(cadence, skip=skip))


@pytest.fixture
def warm(monkeypatch):
    """Return settings that detect spikes after two updates."""
    monkeypatch.setattr(skipping, "WARM", 2)


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_a_skipped_update_leaves_all_but_the_step_as_it_was(kind, stored, optimizer, warm):
    settings = optimizers.OptimizerSettings(optimizer, moments=stored)
    tx = optimizers.make_optimizer(settings, optax.constant_schedule(0.1))
    state = create_state(lambda key: {"w": jnp.ones((2, 1))}, tx, jax.random.key(0), norms=True)
    step = jax.jit(make_train_step(squares, tx, decay=0.9, skip=Skip(1, 5.0)))
    frozen, batch = jnp.array([[2.0], [-1.0]]), jnp.array([[1.0, 0.5], [0.3, -1.0]])
    for _ in range(2):
        state, metrics = step(state, frozen, batch)
        assert metrics["skipped"] == 0
    after, metrics = step(state, frozen, BAD[kind](batch))
    assert metrics["skipped"] == 1
    assert np.isfinite(metrics["param_norm"])
    assert after.step == state.step + 1
    for name in ("params", "ema", "opt_state"):
        assert_equal(named_leaves(getattr(after, name)), named_leaves(getattr(state, name)))
    again, metrics = step(after, frozen, batch)
    assert metrics["skipped"] == 0
    assert (again.params["w"] != after.params["w"]).all()


def test_a_run_counts_what_it_skips_says_it_and_keeps_it_out_of_the_means(tmp_path, capsys):
    cadence = dataclasses.replace(EACH, log=2)
    skip_toy(tmp_path, {3: "nan", 5: "infinite", 6: "overflowing"}, cadence=cadence)
    lines = {line["step"]: line for line in read_lines(tmp_path / "metrics.jsonl")}
    assert [lines[step]["skipped"] for step in range(1, 7)] == [0, 0, 1, 1, 2, 3]
    assert "loss" not in lines[3]
    assert all(np.isfinite(line["loss"]) for step, line in lines.items() if step not in (3, 5, 6))
    said = capsys.readouterr().err
    for step in (3, 5, 6):
        line = rf"cv3jax: step {step}: loss is \w+, grad_norm is \w+; the update is skipped"
        assert re.search(line, said)
    assert_equal(params(tmp_path, 3), params(tmp_path, 2))
    assert_equal(params(tmp_path, 6), params(tmp_path, 4))


def params(workdir, step):
    """Return parameters, EMA and optimizer state of a checkpoint."""
    kept = ("params", "ema", "opt_state")
    return {name: x for name, x in leaves(workdir, step).items() if name.startswith(kept)}


def test_a_mean_is_of_the_updates_that_were_done(tmp_path):
    skip_toy(tmp_path / "each", {3: "nan"})
    each = {
        line["step"]: line["loss"]
        for line in read_lines(tmp_path / "each" / "metrics.jsonl")
        if "loss" in line
    }
    rare = dataclasses.replace(EACH, log=6, save=0)
    skip_toy(tmp_path / "rare", {3: "nan"}, cadence=rare)
    (line,) = read_lines(tmp_path / "rare" / "metrics.jsonl")
    assert line["loss"] == pytest.approx(np.mean(list(each.values())))
    assert len(each) == 5


@pytest.mark.parametrize("kind", ["nan", "infinite", "long"])
def test_more_in_a_row_than_are_allowed_end_the_run_with_the_last_good_checkpoint(
    kind, tmp_path, warm
):
    skip = Skip(2, 5.0)
    skip_toy(tmp_path / "few", dict.fromkeys((3, 4), kind), skip=skip)
    with pytest.raises(
        NonFiniteLossError,
        match=(
            r"step 5: .*, and 3 updates in a row were skipped; config.train.skip_nonfinite ="
            " 2 allows no more; the run is stopped, the checkpoint of step 4 remains; give a lower"
            " --config.optim.lr with --allow-changed optim.lr, or a higher"
            " --config.train.skip_nonfinite,"
        ),
    ):
        skip_toy(tmp_path / "many", dict.fromkeys((3, 4, 5), kind), skip=skip)
    assert_equal(params(tmp_path / "many", 4), params(tmp_path / "many", 2))


def test_skipped_updates_in_a_row_are_counted_across_a_restart(tmp_path):
    skip = Skip(2)
    stopped = dataclasses.replace(EACH, steps=4)
    skip_toy(tmp_path, {3: "nan", 4: "nan"}, skip=skip, cadence=stopped)
    with pytest.raises(NonFiniteLossError, match=r"step 5: .*3 updates in a row"):
        skip_toy(tmp_path, {5: "nan"}, skip=skip, start=5)


def test_without_skipping_the_first_bad_update_ends_the_run_with_advice_that_can_be_followed(
    tmp_path,
):
    with pytest.raises(
        NonFiniteLossError,
        match=(
            r"step 3: loss is nan, grad_norm is nan, param_norm is nan; the run is stopped, the"
            " checkpoint of step 2 remains; give a lower --config.optim.lr with --allow-changed"
            " optim.lr, or --config.train.skip_nonfinite, which skips such updates"
        ),
    ):
        skip_toy(tmp_path, {3: "nan"}, skip=Skip())


@pytest.mark.parametrize(
    ("norms", "done"),
    [
        ([1.0] * 5 + [4.9], [True] * 6),
        ([1.0] * 5 + [5.1], [True] * 5 + [False]),
        ([100.0, 1.0, 1.0], [True, True, True]),  # nothing is known yet of what is long
        ([1.0] * 5 + [np.nan, np.inf, 1.0], [True] * 5 + [False, False, True]),
        ([1.0] * 5 + [0.0], [True] * 6),
    ],
    ids=["below", "above", "first", "not finite", "short"],
)
def test_a_gradient_is_too_long_by_the_mean_of_those_before(norms, done, warm):
    known, found = fresh_norms(), []
    for norm in norms:
        fine, known = judge(Skip(9, 5.0), known, jnp.zeros(()), jnp.asarray(norm))
        found.append(bool(fine))
    assert found == done
    assert np.isfinite(known["mean"])


def test_gradients_that_are_longer_for_good_are_not_skipped_for_ever(warm):
    known = fresh_norms()
    ask = functools.partial(judge, Skip(10**6, 4.0), loss=jnp.zeros(()))
    for norm in [1.0] * 200 + [40.0] * 100:
        fine, known = ask(norms=known, grad_norm=jnp.asarray(norm))
    assert fine


@pytest.mark.parametrize("skip", [Skip(), Skip(3), Skip(3, 5.0)], ids=["off", "on", "spikes"])
def test_checkpoints_are_the_same_whatever_is_skipped_and_each_run_reads_the_other(
    skip, tmp_path, warm
):
    plain = toy(tmp_path / "plain", cadence=EACH)
    for before in (Skip(), Skip(3), Skip(3, 5.0)):
        workdir = tmp_path / f"{before.most}_{before.spike}"
        first = dataclasses.replace(EACH, steps=4, skip=before)
        toy(workdir, cadence=first)
        assert leaves(workdir, 4).keys() == leaves(tmp_path / "plain", 4).keys()
        state = toy(workdir, cadence=dataclasses.replace(EACH, skip=skip))
        assert_equal(named_leaves(state.params), named_leaves(plain.params))
        assert (state.norms is not None) == (skip.spike > 0)


def test_a_resumed_run_judges_by_the_same_mean(tmp_path, warm):
    cadence = dataclasses.replace(EACH, skip=Skip(3, 5.0))
    whole = toy(tmp_path / "whole", cadence=cadence)
    toy(tmp_path / "two", cadence=dataclasses.replace(cadence, steps=3))
    resumed = toy(tmp_path / "two", cadence=cadence)
    assert int(resumed.norms["count"]) == EACH.steps
    assert_equal(named_leaves(resumed), named_leaves(whole))


def test_without_skipping_the_step_is_the_same_program_and_the_state_the_same_tree():
    work, state = toy_work()
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.flatten_with_path(state)[0]]
    assert not any("norms" in name for name in names)
    assert {name.split(".")[1].split("[")[0] for name in names} == {
        "step",
        "key",
        "params",
        "ema",
        "opt_state",
    }
    batch = jnp.ones((8, 2))
    text = str(jax.make_jaxpr(lambda s, b: work.step(s, b))(state, batch))
    assert "is_finite" not in text
    guarded, started = toy_work(skip=Skip(1))
    assert "is_finite" in str(jax.make_jaxpr(lambda s, b: guarded.step(s, b))(started, batch))
