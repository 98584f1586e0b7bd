"""Test that a step on a mesh computes what one device computes.

It must gather no more than it is planned to.
"""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend import core
from jax.interpreters import partial_eval
from jax.sharding import PartitionSpec as P

from cv3jax.cascade.parts import model_shapes, unet_init
from cv3jax.diffusion.conditioning import make_cond, picture_sizes
from cv3jax.distributed import partitioning
from cv3jax.distributed.fsdp import Layout, gather_axis
from cv3jax.distributed.mesh import batch_sharding, make_mesh
from cv3jax.distributed.partitioning import names, spec, tree_sharding, tree_specs
from cv3jax.models import REMATS
from cv3jax.models.layers import ResBlock, block_of
from cv3jax.models.transformer import SpatialTransformer
from cv3jax.models.unet import UNet
from cv3jax.training.train_step import create_state, make_train_step

SMALL = {
    "channels": 16,
    "channel_mult": (1, 2),
    "res_blocks": 1,
    "depth": (0, 2),
    "mid_depth": 2,
    "head_dim": 8,
    "groups": 8,
}
# every kind of layer once: transformers in the middle alone
FEW = {**SMALL, "depth": (0, 0)}
MESHES = (
    {"data": 2, "fsdp": 4},
    {"data": 1, "fsdp": 4, "tensor": 2},
    {"data": 2, "fsdp": 2, "context": 2},
)


def small_step(mesh, remat, accumulate):
    """Return (state, batch, the compiled step) of a small UNet in float32.

    Parameters of 512 elements and more are split.
    """
    model, tx = UNet(**FEW, remat=remat), optax.adam(1e-2)

    def init(key):  # the zeros that a fresh model ends in would hide most of its gradient
        wave = functools.partial(jnp.arange, dtype=jnp.float32)
        return jax.tree.map(
            lambda x: x + 0.02 * jnp.sin(wave(x.size)).reshape(x.shape), unet_init(model, 32)(key)
        )

    shapes = jax.eval_shape(lambda key: create_state(init, tx, key), jax.random.key(0))
    layout, placed = (
        Layout(mesh, tree_specs(shapes.params, mesh), "float32"),
        tree_sharding(shapes, mesh),
    )
    local = model.clone(gather=layout.gather, constrain=layout.constrain)

    def loss(params, frozen, batch, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, (8, 8, 4)))(keys)
        cond = make_cond(batch["text"], picture_sizes(len(keys), 64, 64))
        out = local.apply(
            {"params": layout.whole(params, UNet.gathers)},
            batch["x"] + noise,
            jnp.zeros(len(keys), jnp.int32),
            cond,
        )
        return ((out - batch["x"]) ** 2).mean(), {}

    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(16, 8, 8, 4)), "text": rng.normal(size=(16, 8, 32))}
    batch = {
        name: jax.device_put(x.astype(np.float32), batch_sharding(mesh))
        for name, x in batch.items()
    }
    state = jax.jit(lambda key: create_state(init, tx, key), out_shardings=placed)(
        jax.random.key(0)
    )
    step = make_train_step(
        loss, tx, decay=0.9, accumulate=accumulate, spread=layout.spread_gradient
    )
    return (
        state,
        batch,
        jax.jit(step, out_shardings=(placed, None)).lower(state, {}, batch).compile(),
    )


@functools.cache
def alone():
    """Return the metrics of two steps on one device with the whole batch at once."""
    return two_steps(
        *small_step(make_mesh(data=1, devices=jax.devices()[:1]), "none", accumulate=1)
    )


def two_steps(state, batch, step):
    lines = []
    for _ in range(2):
        state, metrics = step(state, {}, batch)
        lines.append([float(metrics[name]) for name in ("loss", "grad_norm", "param_norm")])
    return lines


@pytest.mark.parametrize(
    "axes",
    [MESHES[1], *(pytest.param(axes, marks=pytest.mark.slow) for axes in (MESHES[0], MESHES[2]))],
    ids=lambda axes: "x".join(map(str, axes.values())),
)
def test_every_mesh_computes_in_two_microbatches_what_one_device_does_in_one(axes, monkeypatch):
    monkeypatch.setattr(partitioning, "MIN_SIZE", 512)
    np.testing.assert_allclose(
        two_steps(*small_step(make_mesh(**axes), "block", accumulate=2)), alone(), rtol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("remat", [name for name in REMATS if name != "offload"])
def test_whatever_is_computed_again_the_update_is_the_same(remat, monkeypatch):
    monkeypatch.setattr(partitioning, "MIN_SIZE", 512)
    state, batch, step = small_step(make_mesh(data=2, fsdp=4), remat, accumulate=1)
    np.testing.assert_allclose(two_steps(state, batch, step), alone(), rtol=1e-4)


@pytest.mark.parametrize(
    ("remat", "least", "most"), [("none", 1.67, 2), ("block", 1.85, 2), ("full", 2.6, 3)]
)
def test_gathered_parameters_are_gathered_again_and_never_kept(remat, least, most, monkeypatch):
    """Kept parameters would add up to the whole model's.

    Those of the last layers need not be gathered again.
    """
    monkeypatch.setattr(partitioning, "MIN_SIZE", 512)
    mesh, model = make_mesh(data=2, fsdp=4), UNet(**SMALL, remat=remat)
    params = model_shapes(model, 32)
    layout = Layout(mesh, tree_specs(params, mesh), "float32")
    local = model.clone(gather=layout.gather, constrain=layout.constrain)

    def loss(params, frozen, x):
        cond = make_cond(jnp.zeros((len(x), 8, 32)), picture_sizes(len(x), 64, 64))
        return (
            local.apply(
                {"params": layout.whole(params, UNet.gathers)},
                x,
                jnp.zeros(len(x), jnp.int32),
                cond,
            )
            ** 2
        ).mean(), {}

    gradient = jax.make_jaxpr(layout.spread_gradient(jax.grad(loss, has_aux=True)))(
        params, {}, jnp.zeros((8, 8, 8, 4))
    )
    split = sum(
        leaf.shape[0] if "blocks" in names(path) else 1
        for path, leaf in jax.tree.leaves_with_path(params)
        if "fsdp" in spec(names(path), leaf.shape, mesh)
    )
    assert least * split < gathers(live(gradient.jaxpr)) <= most * split


def live(jaxpr):
    """Return a jaxpr without the equations whose results are unused."""
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def gathers(jaxpr):
    """Return how often parameters are gathered; a loop's gathers count once per iteration."""
    inner = sum(
        eqn.params.get("length", 1) * gathers(body)
        for eqn in jaxpr.eqns
        for body in core.jaxprs_in_params(eqn.params)
    )
    return inner + sum(eqn.primitive.name == "all_gather" for eqn in jaxpr.eqns)


class Blocks(nn.Module):
    """Apply a block of each kind, as in the UNet."""

    remat: str

    @nn.compact
    def __call__(self, x, text):
        h = block_of(ResBlock, ("down_0_0",), None, self.remat)(16, 4, name="block")(x)
        return SpatialTransformer(2, 8, groups=4, remat=self.remat, name="transformer")(h, text)


def test_inputs_that_wait_in_the_host_s_memory_give_the_same_gradient():
    x, text = (
        jax.random.normal(jax.random.key(0), (2, 4, 4, 8)),
        jax.random.normal(jax.random.key(1), (2, 9, 16)),
    )
    # away from the zeros at its end
    params = jax.tree.map(
        lambda p: p + 0.1, Blocks("none").init(jax.random.key(2), x, text)["params"]
    )

    def gradient(remat):
        return jax.grad(
            lambda params: jnp.square(Blocks(remat).apply({"params": params}, x, text)).sum()
        )

    ours, theirs = jax.jit(gradient("offload"))(params), jax.jit(gradient("none"))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()), ours, theirs
    )
    programs = [str(jax.make_jaxpr(gradient(remat))(params)) for remat in ("offload", "none")]
    # the ResBlock's input, a transformer block's
    for kept in ("f32<host>[2,4,4,8]", "f32<host>[2,16,16]"):
        assert [kept in program for program in programs] == [True, False]


def test_gathers_are_of_the_computations_type_and_gradients_are_summed_in_float32():
    mesh = make_mesh(data=1, fsdp=8)

    def loss(x, rows):
        return (gather_axis(x, 0, "bfloat16").astype(jnp.float32) * rows.sum()).sum()

    spread = jax.shard_map(
        jax.grad(loss),
        mesh=mesh,
        in_specs=(P("fsdp"), P("fsdp")),
        out_specs=P("fsdp"),
        check_vma=False,
    )
    text = str(jax.make_jaxpr(spread)(jnp.ones(16), jnp.ones(8)))
    assert re.search(r"bf16\[16\].* = all_gather\[", text)
    assert re.search(r"f32\[2\].* = reduce_scatter\[", text)
    rows = jnp.arange(8.0)
    np.testing.assert_allclose(jax.jit(spread)(jnp.ones(16), rows), np.full(16, 28.0))


def test_magnitudes_of_dora_stay_whole_because_they_are_read_in_float32():
    mesh, layer = make_mesh(data=1, fsdp=8), ("mid_0_transformer", "blocks", "ff_in")
    assert spec((*layer, "lora_up"), (10, 16, 10240), mesh) == P(None, None, "fsdp")
    assert spec((*layer, "lora_magnitude"), (10, 10240), mesh) == P()
