"""Test that clipped gradients are optax's, and that an update keeps none of them in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cv3jax.optim.clipping import clip_by_global_norm
from cv3jax.optim.optimizers import decay_matrices


def gradients(scale, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 40, 50), "bias": (50,), "one": ()}
    return {
        name: jnp.asarray(scale * rng.normal(size=shape), dtype) for name, shape in shapes.items()
    }


def clipped(clip, grads):
    return jax.jit(lambda grads: clip.update(grads, clip.init(grads))[0])(grads)


def norm(grads):
    return float(optax.tree.norm(jax.tree.map(lambda x: x.astype(jnp.float32), grads)))


@pytest.mark.parametrize("most", [1.0, 0.3, 1e9])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_gradients_are_clipped_as_by_optax(most, scale):
    grads = gradients(scale)
    ours, theirs = (
        clipped(clip(most), grads) for clip in (clip_by_global_norm, optax.clip_by_global_norm)
    )
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=3e-7, err_msg=name)
    assert norm(ours) == pytest.approx(min(most, norm(grads)), rel=1e-5)


def test_gradients_within_the_limit_stay_bit_for_bit():
    grads = gradients(1e-3)
    assert norm(grads) < 1.0
    for name, value in clipped(clip_by_global_norm(1.0), grads).items():
        np.testing.assert_array_equal(value, grads[name], err_msg=name)


def test_gradients_keep_their_type():
    grads = clipped(clip_by_global_norm(1.0), gradients(1.0, jnp.bfloat16))
    assert {x.dtype for x in grads.values()} == {jnp.dtype(jnp.bfloat16)}
    assert norm(grads) == pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_no_number_shows_as_in_optax(bad):
    grads = gradients(1.0) | {"bias": jnp.full(50, bad)}
    ours, theirs = (
        clipped(clip(1.0), grads) for clip in (clip_by_global_norm, optax.clip_by_global_norm)
    )
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)  # NaN equals NaN here


def test_states_of_before_load():
    grads = gradients(1.0)
    ours, theirs = clip_by_global_norm(1.0), optax.clip_by_global_norm(1.0)
    assert jax.tree.structure(ours.init(grads)) == jax.tree.structure(theirs.init(grads))


SIZE, LAYERS = 64 * 1024, 8  # parameters of a layer


@functools.cache
def temporary_bytes(clip):
    """Return the bytes of temporary arrays of an adamw update whose state is donated."""
    tx = optax.chain(
        clip(1.0),
        optax.scale_by_adam(),
        decay_matrices(0.01),
        optax.scale_by_learning_rate(0.1),
    )
    layer = {"kernel": jax.ShapeDtypeStruct((256, SIZE // 256), jnp.float32)}
    params = {f"layer_{i}": layer for i in range(LAYERS)}

    def update(params, state, ema, grads):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return params, state, optax.incremental_update(params, ema, 0.1)

    like = (params, jax.eval_shape(tx.init, params), params, params)
    memory = jax.jit(update, donate_argnums=(0, 1, 2)).lower(*like).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= 4 * LAYERS * 4 * SIZE  # parameters, moments and average
    return memory.temp_size_in_bytes


def test_an_update_needs_no_memory_for_clipped_gradients():
    """Clipping, both moments, decay, parameters and their average take no array of a layer."""
    assert temporary_bytes(clip_by_global_norm) < 4 * SIZE
    # what this saves; where optax needs it no longer, its own clip will do
    assert temporary_bytes(optax.clip_by_global_norm) > LAYERS * 4 * SIZE / 2
