"""Test the FLOP count of the released UNet against formulas written out here.

Its gradient and its rematerialisation are counted too.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from cv3jax.diffusion.denoiser import guided, make_denoiser
from cv3jax.diffusion.schedule import ddpm_sigma
from cv3jax.kernels import flops
from cv3jax.models.transformer import SpatialTransformer
from cv3jax.models.unet import UNet

SIDE, TEXT, TEXT_WIDTH, VECTOR = 64, 225, 4096, 1536
BATCH = 2


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


class Hand:
    """Count the FLOPs of the released UNet for one image, with a closed formula for each layer."""

    def __init__(self):
        self.total = 0
        self.of_data = 0  # layers that read the data itself: no gradient goes to their input

    def dense(self, rows, inputs, outputs, of_data=False):
        self.total += 2 * rows * inputs * outputs
        self.of_data += of_data * 2 * rows * inputs * outputs

    def conv(self, side, inputs, outputs, taps=9, of_data=False):
        """Add a convolution; `side` is that of its output."""
        self.dense(side * side * taps, inputs, outputs, of_data)

    def attention(self, queries, keys, width, inputs, of_data=False):
        self.dense(queries, width, width)  # q
        self.dense(keys, inputs, width, of_data)  # k
        self.dense(keys, inputs, width, of_data)  # v
        self.total += 2 * 2 * queries * keys * width  # over heads: scores, and their mix of v
        self.dense(queries, width, width)  # out

    def block(self, side, inputs, width, depth):
        self.conv(side, inputs, width)
        self.dense(1, 4 * 320, width)  # the time embedding
        self.conv(side, width, width)
        if inputs != width:
            self.conv(side, inputs, width, taps=1)
        for _ in range(depth):
            self.attention(side * side, side * side, width, width)
            self.attention(side * side, TEXT, width, TEXT_WIDTH, of_data=True)
            self.dense(side * side, width, 8 * width)  # both halves of the GEGLU
            self.dense(side * side, 4 * width, width)
        if depth:
            self.dense(side * side, width, width)
            self.dense(side * side, width, width)


@functools.cache
def hand() -> Hand:
    count = Hand()
    for inputs in (320, VECTOR):  # time and sizes
        count.dense(1, inputs, 1280, of_data=True)
        count.dense(1, 1280, 1280)
    count.conv(64, 4, 320, of_data=True)
    for side, inputs, width, depth in (
        # down
        (64, 320, 320, 0),
        (64, 320, 320, 0),
        (32, 320, 640, 2),
        (32, 640, 640, 2),
        (16, 640, 1280, 10),
        (16, 1280, 1280, 10),
        (16, 1280, 1280, 10),
        (16, 1280, 1280, 0),  # middle
        # up, with the skips
        (16, 1280 + 1280, 1280, 10),
        (16, 1280 + 1280, 1280, 10),
        (16, 1280 + 640, 1280, 10),
        (32, 1280 + 640, 640, 2),
        (32, 640 + 640, 640, 2),
        (32, 640 + 320, 640, 2),
        (64, 640 + 320, 320, 0),
        (64, 320 + 320, 320, 0),
        (64, 320 + 320, 320, 0),
    ):
        count.block(side, inputs, width, depth)
    for side, width in ((32, 320), (16, 640), (32, 1280), (64, 640)):  # halving, doubling
        count.conv(side, width, width)
    count.conv(64, 320, 4)
    return count


@functools.cache
def unet():
    """Return the released UNet as a function, its abstract parameters and its abstract inputs."""
    model = UNet(dtype=jnp.bfloat16)
    inputs = (
        floats(BATCH, SIDE, SIDE, 4),
        floats(BATCH),
        {"text": floats(BATCH, TEXT, TEXT_WIDTH), "vector": floats(BATCH, VECTOR)},
    )
    params = jax.eval_shape(
        lambda key: model.init(key, *jax.tree.map(lambda x: jnp.zeros(x.shape), inputs)),
        jax.random.key(0),
    )
    return lambda p, *inputs: model.apply(p, *inputs), params, inputs


@functools.cache
def guided_step(side: int) -> tuple[int, int]:
    """Return the FLOPs of a guided step of the released UNet on one picture.

    The first are with the text, the second with its keys and values in place of it.
    """
    _, params, (_, _, cond) = unet()
    model, params = UNet(dtype=jnp.bfloat16), params["params"]
    cond = jax.tree.map(lambda x: floats(1, *x.shape[1:]), cond)
    kv = jax.eval_shape(model.text_kv, params, cond["text"])
    denoise = make_denoiser(
        lambda p, x, i, c: model.apply({"params": p}, x, i, c), jnp.asarray(ddpm_sigma()), "v"
    )
    args = params, floats(1, side, side, 4), jax.ShapeDtypeStruct((1,), jnp.int32)
    return tuple(
        flops.count(guided(denoise, 7.5), *args, {**cond, "text": text}).total
        for text in (cond["text"], kv)
    )


@pytest.mark.parametrize(("side", "ratio"), [(32, 0.527), (64, 0.797), (128, 0.917)])
def test_a_step_with_the_texts_keys_and_values_takes_so_much_of_one_with_the_text(side, ratio):
    plain, cached = guided_step(side)
    assert cached / plain == pytest.approx(ratio, rel=0.01)


def test_a_cascade_takes_so_much_with_the_texts_keys_and_values():
    """50 base steps of 512² and 10 relay steps of 1024². Each stage computes them once."""
    _, params, (_, _, cond) = unet()
    text = floats(1, *cond["text"].shape[1:])
    once = flops.count(UNet(dtype=jnp.bfloat16).text_kv, params["params"], text).total
    assert once == pytest.approx(0.307e12, rel=0.01)
    (plain, cached), (relay, relay_cached) = guided_step(64), guided_step(128)
    all_steps = 50 * cached + 10 * relay_cached + 2 * once
    assert all_steps / (50 * plain + 10 * relay) == pytest.approx(0.85, rel=0.01)


def gradient(function, params, inputs):
    return flops.count(
        jax.grad(lambda params, *inputs: function(params, *inputs).sum()), params, *inputs
    )


def test_the_full_unet_has_the_flops_of_the_hand_count():
    function, params, inputs = unet()
    counted = flops.count(function, params, *inputs)
    assert counted.total == pytest.approx(BATCH * hand().total, rel=0.01)
    assert counted.recomputed == 0
    assert set(counted.kinds) == {"conv_general_dilated", "dot_general"}


def test_a_gradient_is_three_forwards_but_for_the_inputs():
    counted = gradient(*unet())
    assert counted.total == pytest.approx(BATCH * (3 * hand().total - hand().of_data), rel=1e-3)
    assert counted.recomputed == 0


def test_remat_is_counted_and_counted_apart():
    x, text = floats(BATCH, 8, 8, 32), floats(BATCH, 7, 16)

    def transformer(**fields):
        model = SpatialTransformer(depth=3, head_dim=16, groups=8, **fields)
        return lambda params, x, text: model.apply(params, x, text)

    model = SpatialTransformer(depth=3, head_dim=16, groups=8)
    params = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros(x.shape), jnp.zeros(text.shape)), jax.random.key(0)
    )
    forward = flops.count(transformer(), params, x, text).total
    plain, again = (
        gradient(transformer(), params, (x, text)),
        gradient(transformer(remat="block"), params, (x, text)),
    )
    assert again.model == plain.total
    # blocks but for what no gradient needs again, their last products
    assert 0.5 * forward < again.recomputed < forward
