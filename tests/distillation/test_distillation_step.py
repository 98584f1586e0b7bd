"""Test the step of a distillation's round: compilations, draws, learning rate and EMA."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from distillation_cases import STAGES, network, normal
from distillation_rounds import RANGE, STUDENT, TEACHER, W_DIM, a_batch, a_round, keys, loss_of

from cv3jax.diffusion.schedule import base_grid, relay_grid
from cv3jax.distillation.loss import distillation_loss, draw_pairs
from cv3jax.training.train_step import TrainState, make_train_step


@pytest.fixture(autouse=True, scope="module")
def _float64():
    with jax.enable_x64(True):
        yield


def test_rows_past_the_count_change_no_loss():
    for stage in STAGES:
        np.testing.assert_array_equal(loss_of(stage, rows=16)[0], loss_of(stage)[0])


@pytest.mark.parametrize("family", ["base", "relay"])
def test_rounds_of_a_kind_share_one_compilation(family):
    traced = []

    def student(params, x, t, cond):
        traced.append(t)
        return network(params, x, t, cond)

    loss = distillation_loss(student, network, w_dim=W_DIM, teacher_w_dim=W_DIM)
    step = jax.jit(
        make_train_step(
            loss,
            optax.sgd(1.0),
            decay=lambda f: f["round"].decay,
            rate=lambda f, step: f["round"].lr,
        )
    )
    params = jax.tree.map(jnp.asarray, STUDENT)
    state = TrainState(jnp.array(0), jax.random.key(0), params, params, optax.sgd(1.0).init(params))
    seen = []
    for n in (16, 8, 4):
        grid = base_grid(n) if family == "base" else relay_grid(n, 500)
        now = a_round(grid, rows=8, w=(n / 2, n), lr=1.0 / n, updates=n, decay=1 - 1 / n)
        _, metrics = step(state, {"teacher": TEACHER, "round": now}, a_batch(family == "relay"))
        seen.append(float(metrics["loss"]))
    assert len(traced) == 1
    assert len(set(seen)) == 3


def test_draws_are_uniform_and_an_image_s_own():
    n, count = 20_000, 5
    drawn = jax.jit(draw_pairs, static_argnums=1)
    pair, w, noise = drawn(keys(n=n), (2, 2, 1), count, jnp.asarray(RANGE))
    share = np.bincount(pair, minlength=count) / n
    assert len(share) == count
    np.testing.assert_allclose(share, 1 / count, rtol=0, atol=5 * (1 / count / n) ** 0.5)
    assert RANGE[0] <= w.min() < RANGE[0] + 0.01
    assert RANGE[1] - 0.01 < w.max() <= RANGE[1]
    np.testing.assert_allclose(
        np.histogram(w, 7, RANGE)[0] / n, 1 / 7, rtol=0, atol=5 * (1 / 7 / n) ** 0.5
    )
    assert abs(np.corrcoef([pair, w, *noise.reshape(n, -1).T]) - np.eye(6)).max() < 5 / n**0.5
    np.testing.assert_allclose(noise.std(), 1, rtol=5 * (8 * n) ** -0.5)
    for ours, theirs in zip(
        drawn(keys(n=n)[7:9], (2, 2, 1), count, jnp.asarray(RANGE)), (pair, w, noise), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs[7:9])  # whoever its neighbours are
    pair, w, _ = drawn(keys(n=n), (2, 2, 1), 1, jnp.asarray((5.0, 5.0)))
    assert not pair.any()
    np.testing.assert_array_equal(w, 5.0)


def test_a_round_sets_the_pace_of_a_train_step():
    """An update is the optimizer's times `rate`, up to rounding.

    The average moves by 1 - `decay`. Both are inputs of the program.
    """
    tx = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1), optax.scale(-1.0))
    params = {"a": normal(0, (3, 2)), "b": normal(1, (4,))}

    def loss(params, frozen, batch, keys):
        return (
            sum(jnp.sum(jnp.sin(value) * batch["x"].mean()) for value in jax.tree.leaves(params)),
            {},
        )

    def rate(frozen, step):
        return frozen.lr * jnp.minimum(step / frozen.warmup, 1.0)

    step = jax.jit(make_train_step(loss, tx, rate=rate, decay=lambda frozen: frozen.decay))
    batch, now = {"x": normal(2, (8,))}, a_round(base_grid(4), lr=0.5, warmup=4, decay=0.75)
    grads = jax.grad(lambda p: loss(p, None, batch, None)[0])(params)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    # warming up, warm, and another pace without another compilation; by then the cap on the decay
    # is above it
    for at, other, factor in [
        (100, {}, 0.5),
        (100, {"lr": 0.25, "decay": 0.5}, 0.25),
        (2, {}, 0.25),
    ]:
        frozen = dataclasses.replace(
            now, **{name: jnp.asarray(value) for name, value in other.items()}
        )
        ema = jax.tree.map(lambda p: p + 1, params)
        state, _ = step(
            TrainState(jnp.array(at), jax.random.key(0), params, ema, tx.init(params)),
            frozen,
            batch,
        )
        decay = min(float(frozen.decay), (1 + at) / (10 + at))
        for name, value in params.items():
            np.testing.assert_allclose(
                state.params[name] - value, factor * updates[name], rtol=1e-13, atol=1e-15
            )
            np.testing.assert_allclose(
                state.ema[name],
                decay * ema[name] + (1 - decay) * state.params[name],
                rtol=1e-14,
                atol=1e-14,
            )
    assert step._cache_size() == 1
