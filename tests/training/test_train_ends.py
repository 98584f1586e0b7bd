"""Test how a training command ends: at NaN, at SIGTERM, and at too high a learning rate.

The tests also check that it resumes.
"""

import dataclasses
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from toy_runs import CADENCE, toy

from cv3jax import cli
from cv3jax.checkpoints import runs
from cv3jax.commands import train
from cv3jax.training import autoencoder
from cv3jax.training import run as training
from cv3jax.training.loop import NonFiniteLossError
from cv3jax.training.memory_plan import memory_plan
from cv3jax.training.metrics import read_lines


def test_a_nan_ends_the_command_with_exit_1_and_leaves_the_last_good_checkpoint(
    tmp_path, monkeypatch, capsys
):
    def poison(step, state):
        if step != 4:
            return state
        with jax.transfer_guard("allow"):
            return dataclasses.replace(
                state, params=jax.tree.map(lambda x: x * jnp.nan, state.params)
            )

    tiny_runs.watch(monkeypatch, lambda step: None, poison)
    arguments = tiny_runs.argv("vae", tmp_path / "w", *tiny_runs.MESH["vae"], "train.log_every=5")
    with pytest.raises(SystemExit) as e, tiny_runs.split_small():
        cli.run_command(train.main, arguments)
    assert e.value.code == 1
    said = capsys.readouterr().err
    assert said.count("cv3jax: vae: parameters from scratch\n") == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith("cv3jax: step 5: loss is nan, grad_norm is nan, ")
    assert "checkpoint of step 3 remains" in last
    assert [p.name for p in (tmp_path / "w" / "checkpoints").iterdir()] == ["3"]
    assert not (tmp_path / "w" / "cascade").exists()
    assert [line["step"] for line in read_lines(tmp_path / "w" / "metrics.jsonl")] == [3]
    monkeypatch.undo()
    with tiny_runs.split_small():
        figures = training.run(
            tiny_runs.config("vae", *tiny_runs.MESH["vae"], "train.log_every=5"), tmp_path / "w"
        )
    assert figures["train_psnr"] == pytest.approx(tiny_runs.trained("vae").figures["train_psnr"])


def test_sigterm_ends_the_command_with_exit_0_a_checkpoint_and_a_memory_plan_before_the_first_step(
    tmp_path, monkeypatch, capsys
):
    workdir = shutil.copytree(tiny_runs.trained("vae").workdir, tmp_path / "w")
    shutil.rmtree(workdir / "checkpoints" / str(tiny_runs.STEPS))  # it resumes from step 3
    capsys.readouterr()  # of that run, where it was this test that made it
    announced, before, plans = autoencoder.compiled_and_announced, [], []

    def spied(programs, state, frozen, batches):
        (program,) = announced(programs, state, frozen, batches)
        plan = memory_plan(state, frozen, batches, [program])

        def step(state, frozen, batch):
            before.append(capsys.readouterr().err)
            here = {
                "parameters": state.params,
                "moments": state.opt_state,
                "EMA": state.ema,
                "batch": batch,
            }
            for kind, tree in here.items():
                plans.append(
                    sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
                    == plan[kind]
                    > 0
                )
            os.kill(os.getpid(), signal.SIGTERM)
            return program(state, frozen, batch)

        return [step]

    monkeypatch.setattr(autoencoder, "compiled_and_announced", spied)
    with tiny_runs.split_small():
        # exits where the code is not 0
        cli.run_command(train.main, tiny_runs.argv("vae", workdir, *tiny_runs.MESH["vae"]))
    (said,) = before
    assert len(re.findall(r"cv3jax: memory per device, MB: .*; \d+\.\d\d in all\n", said)) == 1
    assert plans == [True] * 4
    after = capsys.readouterr().err
    assert (
        f"cv3jax: SIGTERM: stopped after step 4, saved in {workdir}/checkpoints/4; run the same"
        " command to resume\n" in after
    )
    assert "memory per device" not in after
    assert runs.steps(workdir / "checkpoints") == [3, 4]
    runs.verify(workdir / "checkpoints", 4)


def test_a_huge_learning_rate_reaches_no_checkpoint(tmp_path):
    with pytest.raises(
        NonFiniteLossError,
        match=r"step 1: param_norm is \w+; the run is stopped, there is no checkpoint yet; give a",
    ):
        toy(tmp_path, lr=1e38, cadence=dataclasses.replace(CADENCE, log=1, save=1))
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_run_resumes_from_its_checkpoint_and_its_metrics_have_no_step_twice(tmp_path):
    whole = toy(tmp_path / "a")
    toy(tmp_path / "b", cadence=dataclasses.replace(CADENCE, steps=5))
    resumed = toy(tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    assert [line["step"] for line in read_lines(tmp_path / "b" / "metrics.jsonl")] == [
        2,
        4,
        5,
        6,
        8,
    ]
