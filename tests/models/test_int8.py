"""Test frozen kernels in int8: what they round, what they compute, and what is kept of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax.models import adapters, int8
from cv3jax.models.transformer import GatedDense

pytest.importorskip("qwix")
LAYERS = {
    "dense": (nn.Dense(24), (2, 5, 16)),
    "gated": (GatedDense(12), (2, 5, 16)),
    "conv": (nn.Conv(24, (3, 3), strides=(2, 2), padding=1), (2, 6, 6, 16)),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    """Return (a layer, an input, its parameters in int8, the same as float32)."""
    module, shape = LAYERS[request.param]
    x = jax.random.normal(jax.random.key(1), shape)
    params = module.init(jax.random.key(0), x)["params"]
    params = {**params, "bias": jnp.linspace(-1, 1, len(params["bias"]))}
    held = {**params, "kernel": int8.quantized(params["kernel"], stacked=False)}
    return module, x, held, {**params, "kernel": int8.plain(held["kernel"])}


def applied(module, params):
    """Return a function x → what the layer makes of it, as one array."""

    def call(x):
        with adapters.adapting():
            made = module.apply({"params": params}, x)
        return jnp.concatenate(jax.tree.leaves(made), axis=-1)

    return call


@pytest.mark.parametrize("adapted", [False, True])
def test_a_layer_computes_with_its_dequantized_kernel(layer, adapted):
    module, x, held, wide = layer
    if adapted:
        tree = adapters.fresh(wide, [""], 2, jax.random.key(2), dora=True)[""]
        tree = {name: value + 0.1 for name, value in tree.items()}
        tree[adapters.SCALE] = jnp.float32(0.5)
        held, wide = {**held, **tree}, {**wide, **tree}
    ours, theirs = applied(module, held), applied(module, wide)
    made, back = jax.vjp(ours, x)
    exact, wanted = jax.vjp(theirs, x)
    np.testing.assert_array_equal(made, exact)
    cotangent = jax.random.normal(jax.random.key(3), made.shape)
    np.testing.assert_allclose(back(cotangent)[0], wanted(cotangent)[0], rtol=1e-5, atol=1e-5)


def test_the_gradient_keeps_no_float_kernel(layer):
    module, x, held, wide = layer

    def kept(params):
        return {
            (x.shape, x.dtype.name) for x in jax.tree.leaves(jax.vjp(applied(module, params), x)[1])
        }

    shape = wide["kernel"].shape
    assert (shape, "int8") in kept(held)
    assert (shape, "float32") not in kept(held)


def test_a_loop_holds_no_float_kernel():
    module = nn.Dense(256, use_bias=False)
    kernel = int8.quantized(jax.random.normal(jax.random.key(0), (256, 256)), stacked=False)

    def looped(kernel, x):
        return jax.lax.fori_loop(0, 3, lambda _, x: applied(module, {"kernel": kernel})(x), x)

    compiled = jax.jit(looped).lower(kernel, jnp.ones((2, 256))).compile()
    (carried,) = [line for line in compiled.as_text().splitlines() if " while(" in line]
    assert "s8[256,256]" in carried
    assert "f32[256,256]" not in carried


@pytest.mark.parametrize("stacked", [False, True])
def test_each_channel_has_its_scale(stacked):
    kernel = jax.random.normal(jax.random.key(0), (3, 8, 6)) * jnp.logspace(-3, 3, 6)
    kernel = kernel.at[..., 2].set(0.0)  # as training starts from
    made = int8.quantized(kernel, stacked)
    assert made.scale.shape == ((3 if stacked else 1), 1, 6)
    largest = jnp.max(jnp.abs(kernel), axis=1 if stacked else (0, 1), keepdims=True)
    assert (jnp.abs(int8.plain(made) - kernel) <= largest / 253).all()
    assert (int8.plain(made)[..., 2] == 0).all()
