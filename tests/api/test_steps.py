"""Test callbacks: their order, previews, x̂0, cancellation, and that watching changes nothing."""

import copy
import dataclasses

import described
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_stages import FIELDS, placed

import cv3jax
from cv3jax.cascade import preview
from cv3jax.cascade.stage_network import SamplerOptions, stage_network
from cv3jax.cascade.stage_sampler import (
    make_stage_steps,
    sample_stage,
    stage_grid,
    watch_stage,
)


def test_a_callback_sees_each_step_and_changes_nothing(pipe):
    seen, given = [], {"seed": 1, "num": 2, "batch": 1}

    def callback(step):
        seen.append(step)

    watched, alone = pipe("a red star", callback=callback, **given), pipe("a red star", **given)
    steps = [(step.stage, step.number, step.count, list(step.pictures)) for step in seen]
    a_batch = [*(("base", n, 4) for n in (1, 2, 3, 4)), ("relay", 1, 1)]
    assert steps == [(*step, [batch]) for batch in (0, 1) for step in a_batch]
    for stage in ("base", "relay"):
        assert np.array_equal(watched.latents[stage], alone.latents[stage])
        assert np.array_equal(watched.stages[stage], alone.stages[stage])
    last = [step for step in seen if step.number == step.count]
    for step, (stage, row) in zip(
        last, [("base", 0), ("relay", 0), ("base", 1), ("relay", 1)], strict=True
    ):
        assert step.latents() == pytest.approx(watched.latents[stage][row : row + 1], abs=1e-4)
        (shown,), (decoded,) = step.preview(), step.decode()
        assert shown.size == (4, 4) if stage == "base" else (8, 8)
        whole = np.asarray(decoded, int) - watched.stages[stage][row].astype(int)
        assert np.abs(whole).max() <= 1
    assert not np.allclose(seen[0].latents(), seen[1].latents())


def test_a_step_and_a_cascade_print_in_a_line(pipe):
    seen = []
    pipe("a red star", seed=1, callback=seen.append)
    assert repr(seen[1]) == "Step(stage='base', number=2, count=4, pictures=range(0, 1))"
    assert repr(pipe).startswith(f"Cascade('{pipe._source}': base 32×32, relay 64×64, ")
    assert {"t5", "vae"} <= set(repr(pipe).strip(")").split(", "))


def test_a_batch_that_is_filled_up_shows_its_own_pictures(pipe):
    seen = []
    pipe("a red star", seed=1, num=3, batch=2, size=32, callback=seen.append)
    assert [list(step.pictures) for step in seen[::4]] == [[0, 1], [2]]
    assert [len(step.preview()) for step in seen[::4]] == [2, 1]
    assert seen[-1].latents().shape == (1, 4, 4, 4)


def test_a_step_decodes_in_the_tiles_of_its_call(pipe, monkeypatch):
    tiles, decode = [], type(pipe._engine).decode

    def seen(engine, latents, tile=0):
        tiles.append(tile)
        return decode(engine, latents, tile)

    monkeypatch.setattr(type(pipe._engine), "decode", seen)
    pipe("a red star", seed=1, size=128, tile=64, callback=lambda step: tiles.append(step.decode()))
    assert 0 not in [tile for tile in tiles if isinstance(tile, int)]


@pytest.mark.parametrize("no", [False, np.False_])
def test_a_callback_cancels_at_once_and_the_cascade_stays_usable(pipe, no):
    seen = []

    def callback(step):
        seen.append(step.number)
        return no if step.number == 2 else None

    with pytest.raises(cv3jax.CancelledError, match="cancelled after step 2 of 4 of the base"):
        pipe("a red star", seed=1, callback=callback)
    assert seen == [1, 2]
    assert len(pipe("a red star", seed=1)) == 1


def test_no_step_is_computed_after_the_one_that_cancels():
    args, ran = placed(None, "base"), []
    sampler = make_stage_steps(described.stage("base", model=FIELDS), SamplerOptions(4))

    def run(*given):
        ran.append(given[-1])
        return sampler.run(*given)

    def watch(done, count, x0):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch_stage(sampler._replace(run=run), *args, watch)
    assert [(int(begin), int(end)) for begin, end in ran] == [(0, 1), (1, 2)]


def test_what_a_callback_raises_comes_through(pipe):
    def callback(step):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        pipe("a red star", callback=callback)


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize("kind", ["base", "relay"])
def test_the_last_x0_is_the_result_and_each_is_the_network_s(kind, form):
    args, seen = placed(None, kind), []
    stage = described.stage(kind, model=FIELDS)
    sampler = make_stage_steps(stage, SamplerOptions(3, form=form))
    made = watch_stage(sampler, *args, lambda done, count, x0: seen.append(np.asarray(x0())))
    assert np.array_equal(made, sample_stage(sampler, *args, None))
    assert np.allclose(seen[-1], made, atol=1e-5)
    params, text, low, noise, _, w = args
    state, read = sampler.begin(low, noise), sampler.read_text(params, text)
    grid, network = stage_grid(stage, 3), stage_network(stage, SamplerOptions(3))
    times = jnp.full(len(noise), grid.t[0])
    first = jax.jit(lambda x: network.predictor(params, read, x, w)(x, times))(state[0])
    assert np.allclose(seen[0], first, atol=1e-3)


def test_a_preview_is_fitted_where_the_checkpoint_has_none(pipe):
    assert np.allclose(pipe._watching.matrix, pipe.description.vae.preview)
    engine = copy.copy(pipe._engine)
    vae = dataclasses.replace(pipe.description.vae, preview=None)
    engine.description = dataclasses.replace(pipe.description, vae=vae)
    older = cv3jax.Cascade(engine, pipe._source, pipe._recorder)
    assert np.array_equal(older._watching.matrix, preview.fit(pipe.encode, 8))
    assert older._watching.matrix.shape == (5, 3)
