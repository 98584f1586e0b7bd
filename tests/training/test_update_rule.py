"""Test the update rule: EMA, learning rate, clipping, weight decay, and Muon."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from states import named_leaves

from cv3jax.cascade.parts import model_shapes
from cv3jax.models.unet import UNet
from cv3jax.optim import learning_rate, optimizers
from cv3jax.training.settings import OptimSettings
from cv3jax.training.state import make_tx
from cv3jax.training.train_step import (
    create_state,
    ema_decay,
    make_train_step,
)


def test_the_ema_follows_its_formula():
    tx, decay = optax.sgd(0.5), 0.6
    state = create_state(lambda key: {"w": jnp.array([3.0])}, tx, jax.random.key(0))
    step = jax.jit(
        make_train_step(lambda p, f, b, k: (jnp.sum(p["w"] ** 2) / 2, {}), tx, decay=decay)
    )
    w = ema = 3.0
    for n in range(12):
        state, _ = step(state, None, jnp.zeros((1,)))
        w /= 2
        d = min(decay, (1 + n) / (10 + n))
        ema = d * ema + (1 - d) * w
        np.testing.assert_allclose([state.params["w"][0], state.ema["w"][0]], [w, ema], rtol=1e-5)
        np.testing.assert_allclose(ema_decay(decay, n), d, rtol=1e-6)


@pytest.mark.parametrize(
    ("decay", "points"),
    [
        ("constant", {0: 0.0, 5: 0.5, 10: 1.0, 60: 1.0, 110: 1.0}),
        ("linear", {0: 0.0, 5: 0.5, 10: 1.0, 60: 0.6, 110: 0.2, 200: 0.2}),
        (
            "cosine",
            {
                0: 0.0,
                5: 0.5,
                10: 1.0,
                60: 0.6,
                110: 0.2,
                200: 0.2,
                35: 0.2 + 0.8 * (1 + np.cos(np.pi / 4)) / 2,
            },
        ),
    ],
)
def test_learning_rate(decay, points):
    rate = learning_rate.learning_rate(1e-3, warmup=10, decay=decay, steps=110, final=0.2)
    for step, share in points.items():
        np.testing.assert_allclose(rate(step), 1e-3 * share, rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(
        learning_rate.learning_rate(1e-3, warmup=0, decay="constant", steps=5)(0), 1e-3
    )


def first_update(kind, params, grads, **options):
    tx = optimizers.make_optimizer(
        optimizers.OptimizerSettings(kind, **options), optax.constant_schedule(0.1)
    )
    return jax.jit(lambda params, grads: tx.update(grads, tx.init(params), params)[0])(
        params, grads
    )


def test_clipping_is_of_the_global_norm_and_weight_decay_is_decoupled():
    params, grads = (
        {"a": jnp.ones(3), "b": jnp.ones((2, 2))},
        {"a": jnp.full(3, 30.0), "b": jnp.full((2, 2), 40.0)},
    )
    eps = 1e3  # so large that adam's update is proportional to the gradient
    plain, clipped = (
        first_update("adamw", params, grads, clip=clip, eps=eps) for clip in (1e9, 1.0)
    )
    norm = np.sqrt(3 * 30.0**2 + 4 * 40.0**2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a / norm, b, rtol=0.1), plain, clipped)
    for kind in optimizers.OPTIMIZERS:
        without, decayed = (
            first_update(kind, params, grads, weight_decay=decay) for decay in (0.0, 0.5)
        )
        np.testing.assert_allclose(decayed["b"], without["b"] - 0.1 * 0.5, atol=1e-6)
        np.testing.assert_array_equal(decayed["a"], without["a"])


@pytest.mark.parametrize("kind", optimizers.OPTIMIZERS)
def test_weight_decay_is_of_matrices_between_hidden_states(kind):
    """Every parameter of a guidance-conditioned UNet is checked; the state is unchanged."""
    model = UNet(
        channels=8, channel_mult=(1, 2), res_blocks=1, depth=(0, 1), groups=4, head_dim=8, w_dim=8
    )
    params = jax.tree.map(lambda x: jnp.ones(x.shape), model_shapes(model, 16))
    still = jax.tree.map(jnp.zeros_like, params)
    update = named_leaves(first_update(kind, params, still, weight_decay=0.5))
    decayed = {name for name, value in update.items() if np.any(value)}
    for name, value in update.items():
        if name in decayed:
            np.testing.assert_allclose(value, -0.1 * 0.5, rtol=1e-6, err_msg=name)
    assert {name.split("/")[-1] for name in decayed} == {"kernel"}
    kept = {name for name in update if name.endswith("kernel")} - decayed
    assert {name.split("/")[0] for name in kept} == {*optimizers.EMBEDDINGS} - {"embed"}
    settings = optimizers.OptimizerSettings(kind, weight_decay=0.5)
    state = optimizers.make_optimizer(settings, 0.1).init(params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizers, "decay_matrices", optax.add_decayed_weights)
        before = optimizers.make_optimizer(settings, 0.1).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(before)


def test_every_field_of_optim_is_in_the_updates_of_adam():
    """The updates are computed by hand with values that differ from all defaults."""
    optim = OptimSettings(
        kind="adamw",
        warmup=2,
        decay="cosine",
        final=0.2,
        weight_decay=0.3,
        clip=0.5,
        b1=0.8,
        b2=0.6,
        momentum=0.0,
        moments="float32",
        lr=0.1,
    )
    steps, rng = 6, np.random.default_rng(0)
    p, *grads = rng.normal(size=(6, 3, 4))
    # Adam does not see what all gradients are scaled by, so that one in two is not clipped
    grads = [grad * scale for grad, scale in zip(grads, (1.0, 0.1, 2.0, 0.05, 1.0), strict=True)]
    tx = make_tx(optim, steps)
    params = {"kernel": jnp.asarray(p, jnp.float32)}
    state, update, first, second = tx.init(params), jax.jit(tx.update), 0.0, 0.0
    for n, grad in enumerate(grads):
        updates, state = update({"kernel": jnp.asarray(grad, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        g = grad * min(1.0, 0.5 / np.sqrt((grad**2).sum()))
        first, second = 0.8 * first + 0.2 * g, 0.6 * second + 0.4 * g**2
        adam = first / (1 - 0.8 ** (n + 1)) / (np.sqrt(second / (1 - 0.6 ** (n + 1))) + 1e-8)
        left = 0.2 + 0.8 * (1 + np.cos(np.pi * (n - 2) / (steps - 2))) / 2
        p = p - 0.1 * (n / 2 if n < 2 else left) * (adam + 0.3 * p)
        np.testing.assert_allclose(params["kernel"], p, rtol=1e-4)


def test_momentum_and_the_type_of_moments_are_in_the_updates_of_adafactor():
    optim = OptimSettings(
        kind="adafactor",
        warmup=0,
        decay="constant",
        final=0.0,
        weight_decay=0.0,
        clip=1e9,
        b1=0.9,
        b2=0.3,
        momentum=0.7,
        moments="float32",
        lr=1.0,
    )
    grads = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 4)), jnp.float32)

    def run(tx):
        return jax.lax.scan(lambda s, g: tx.update(g, s, g)[::-1], tx.init(grads[0]), grads)

    plain = run(optimizers.scale_by_adafactor(0.3, 0.7))[1]
    for moments, rtol in (("float32", 1e-5), ("bfloat16", 0.1)):
        state, updates = run(make_tx(dataclasses.replace(optim, moments=moments), 5))
        np.testing.assert_allclose(updates, -plain, rtol=rtol)
        assert {x.dtype for x in jax.tree.leaves(state) if x.ndim} == {jnp.dtype(moments)}


def test_a_state_s_parameters_and_its_updates_have_keys_of_their_own():
    key = jax.random.key(5)
    state = create_state(lambda k: {"k": jax.random.key_data(k)}, optax.identity(), key)
    seen = [
        tuple(np.asarray(x))
        for x in (state.params["k"], *map(jax.random.key_data, (state.key, key)))
    ]
    assert len(set(seen)) == 3


def test_muon_makes_each_layer_s_kernel_orthogonal_and_leaves_vectors_to_adam():
    rng = np.random.default_rng(0)
    shapes = {
        "dense": (6, 4),
        "wide": (4, 7),
        "conv": (3, 3, 2, 5),
        "bias": (5,),
        "blocks": {"dense": (3, 8, 4), "bias": (3, 4)},
    }
    params = jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    labels = optimizers.muon_labels(params)
    assert [labels["dense"], labels["conv"], labels["blocks"]["dense"]] == ["muon"] * 3
    update = first_update("muon", params, params)
    kernels = [
        update["dense"],
        update["wide"],
        update["conv"].reshape(18, 5),
        *update["blocks"]["dense"],
    ]
    # rows and columns as one matrix, each layer by itself: singular values all about the same
    for kernel in kernels:
        values = np.linalg.svd(kernel / (0.1 * 0.2 * np.sqrt(max(kernel.shape))), compute_uv=False)
        assert 0.5 < values.min() <= values.max() < 1.4
    for vector in (update["bias"], update["blocks"]["bias"]):  # adam's first step
        np.testing.assert_allclose(np.abs(vector), 0.1, rtol=1e-3)
