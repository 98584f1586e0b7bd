"""Test averages that are kept over a run and the EMA that is made of them afterwards."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_runs
import toy_runs

from cv3jax.checkpoints import cascades, streaming
from cv3jax.commands import ema as command
from cv3jax.optim import power_ema
from cv3jax.training import posthoc
from data_pipeline.io.errors import InputError

CADENCE = dataclasses.replace(toy_runs.CADENCE, posthoc=4)


def leaf(workdir, step, name):
    return streaming.open_tree(workdir / "posthoc" / str(step) / name)["w"].read()


def test_the_averages_of_a_run_are_those_of_the_paper_and_a_killed_run_has_the_same(tmp_path):
    seen = []

    def wrap(step):
        def call(state, batch):
            new = step(state, batch)
            with jax.transfer_guard("allow"):
                seen.append(np.asarray(new[0].params["w"], np.float64))
            return new

        return call

    whole = tmp_path / "whole"
    toy_runs.toy(whole, cadence=CADENCE, wrap=wrap)
    assert posthoc.steps(whole) == [2, 4, 6, 8]
    for width in power_ema.WIDTHS:
        average, gamma = seen[0], power_ema.exponent(width)
        for step in range(2, 9):
            kept = (1 - 1 / step) ** (gamma + 1)
            average = kept * average + (1 - kept) * seen[step - 1]
            if step % 2 == 0:
                kept = leaf(whole, step, posthoc.name_of(width))
                np.testing.assert_allclose(kept, average, rtol=1e-5)

    def killed(step):
        if step == 6:
            raise KeyboardInterrupt

    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        toy_runs.toy(part, cadence=CADENCE, before=killed)
    late = part / "posthoc" / "7"  # of a run that went on from another checkpoint
    late.mkdir()
    toy_runs.toy(part, cadence=CADENCE)
    assert posthoc.steps(part) == [2, 4, 6, 8]
    for step in (2, 4, 6, 8):
        for width in power_ema.WIDTHS:
            name = posthoc.name_of(width)
            np.testing.assert_array_equal(leaf(part, step, name), leaf(whole, step, name))


def test_a_run_without_them_keeps_none(tmp_path):
    toy_runs.toy(tmp_path)
    assert not (tmp_path / "posthoc").exists()
    with pytest.raises(InputError, match="no snapshots of averages; train with"):
        posthoc.reconstruct(tmp_path, 0.08, tmp_path / "out")


def averages(step, widths, params, seed):
    rng = np.random.default_rng(seed)
    return {
        posthoc.name_of(width): jax.tree.map(
            lambda x: rng.standard_normal(x.shape).astype(np.float32), params
        )
        for width in widths
    }


def test_the_command_writes_a_cascade_with_the_weighted_sum(tmp_path, capsys):
    source = tiny_runs.trained("vae").workdir
    for name in ("cascade", "checkpoints"):
        (tmp_path / name).symlink_to(source / name)
    like = streaming.open_tree(source / "cascade" / "vae")
    like = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), like)
    kept = {step: averages(step, power_ema.WIDTHS, like, step) for step in (3, 6)}
    for step, trees in kept.items():
        posthoc.keep(tmp_path, trees, step)

    def made(width, step, name):
        out = tmp_path / name
        args = [str(tmp_path), "--sigma-rel", str(width), "--at-step", str(step), "--out", str(out)]
        command.main([*args, "--json", str(tmp_path / "figures.json")])
        assert cascades.read_cascade(out)[1] == cascades.read_cascade(source)[1]
        return cascades.load_part(out / "vae", like)

    # one that was kept comes back, whatever is later
    for step in (3, 6):
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5),
            made(0.10, step, f"same{step}"),
            kept[step]["0.10"],
        )
    shares = power_ema.weights(
        [3, 3, 6, 6], [*map(power_ema.exponent, power_ema.WIDTHS)] * 2, 6, power_ema.exponent(0.08)
    )
    trees = [kept[step][name] for step in (3, 6) for name in ("0.05", "0.10")]
    wanted = jax.tree.map(lambda *x: sum(s * y for s, y in zip(shares, x, strict=True)), *trees)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5),
        made(0.08, 6, "other"),
        wanted,
    )
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["part"], figures["step"], figures["snapshots"]) == ("vae", 6, 4)
    with pytest.raises(InputError, match="--at-step 5: there are snapshots of 3, 6"):
        posthoc.reconstruct(tmp_path, 0.08, tmp_path / "none", 5)
    damaged = next((tmp_path / "posthoc" / "3" / "0.05" / "d").iterdir())
    damaged.write_bytes(b"")
    with pytest.raises(InputError, match="is damaged"):
        posthoc.reconstruct(tmp_path, 0.08, tmp_path / "none")
    assert not (tmp_path / "none").exists()
