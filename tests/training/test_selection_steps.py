"""Test that the steps of real runs freeze, scale and measure what their recipes say, on a mesh."""

import dataclasses
import functools

import hollow_networks as hn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_params import drawn, optim
from states import named_leaves

from cv3jax import recipes
from cv3jax.checkpoints.description import TextDescription, VaeDescription
from cv3jax.distillation.programs import distillation_step
from cv3jax.distributed import partitioning
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.mesh import batch_sharding, make_mesh
from cv3jax.distributed.partitioning import tree_sharding, tree_specs
from cv3jax.optim import selection
from cv3jax.training.autoencoder import vae_program
from cv3jax.training.data import batch_like
from cv3jax.training.parsing import parse_stage
from cv3jax.training.programs import diffusion_programs, train_args
from cv3jax.training.stage import mesh_plan
from cv3jax.training.state import make_tx, selected, state_creator
from cv3jax.training.train_step import Selected, create_state, make_train_step

VAE = VaeDescription(
    {"channels": 8, "channel_mult": [1], "res_blocks": 1, "z_channels": 4, "groups": 4, "patch": 4},
    0.5,
)
TEXT = TextDescription(
    {"vocab": 64, "channels": 8, "layers": 1, "heads": 1, "head_dim": 8, "ff": 8}, length=2
)


def test_the_steps_of_every_kind_of_run_select_what_their_recipe_says():
    """A hollow UNet has one or two parameters, a hollow autoencoder two."""
    norms = "train.module_norms=True"
    base = hn.settings("scenes_base", norms)
    distilled = hn.settings("scenes_distill_base", norms, "optim.freeze=w_proj")
    step = distillation_step(distilled, 0)
    made = {
        "says": hn.programs(base),
        "embed": hn.programs(distilled.stage, step),
    }
    for module, programs in made.items():
        _, metrics = jax.eval_shape(programs.train, *train_args(programs))
        assert f"grad_norm/{module}" in metrics
    assert selected(distilled.stage) == Selected(("w_proj",), True)
    vae = hn.settings("scenes_vae", norms)
    program = vae_program(vae, hn.plan_of(vae), hn.hollow_vae(), None)
    _, metrics = jax.eval_shape(
        program.train, program.like, {}, batch_like(vae, hn.plan_of(vae).mesh)
    )
    assert "grad_norm/logvar" in metrics
    assert selected(hn.settings("scenes_base")) == Selected()


KEY = jax.random.key(0)
FIELDS = (
    "batch.size=8",
    "batch.per_device=1",
    "data.image_size=16",
    "optim.warmup=0",
    "train.module_norms=True",
    "optim.freeze=down_*,*/self_attention",
    "optim.rates=up_*:0.5",
    "optim.kind=adamw",
)


@functools.cache
def stepped(count: int):
    """Return (the compiled step, the state before, after, metrics) of a real stage."""
    settings = parse_stage(recipes.load("scenes_base:tiny", [f"--config.{one}" for one in FIELDS]))
    plan = mesh_plan(settings, jax.devices()[:count])
    programs = diffusion_programs(settings, plan, VAE, TEXT)
    args = train_args(programs)
    compiled = programs.train.lower(*args).compile()
    fresh = state_creator(programs.init, programs.tx, 0, programs.like, None)()
    wave = functools.partial(jnp.arange, dtype=jnp.float32)

    def waved(x):  # the zeros that a fresh model ends in would hide most of its gradient
        return jax.device_put(x + 0.02 * jnp.sin(wave(x.size)).reshape(x.shape), x.sharding)

    trees = (jax.tree.map(waved, tree) for tree in (fresh.params, fresh.ema))
    state = dataclasses.replace(fresh, **dict(zip(("params", "ema"), trees, strict=True)))
    rng = np.random.default_rng(0)
    batch = jax.tree.map(
        lambda x: jax.device_put(rng.normal(size=x.shape).astype(x.dtype), x.sharding), args[2]
    )
    before = named_leaves(state)
    after, metrics = compiled(state, {}, batch)
    return compiled, before, named_leaves(after), {k: float(v) for k, v in metrics.items()}


@pytest.mark.slow
def test_a_stage_s_step_on_eight_devices_is_that_of_one(monkeypatch):
    """On one device, eight microbatches are accumulated."""
    monkeypatch.setattr(partitioning, "MIN_SIZE", 512)
    (_, before, after, metrics), (_, _, alone, wanted) = stepped(8), stepped(1)
    assert metrics == pytest.approx(wanted, rel=1e-3)
    modules = ("in", "embed", "down_0", "down_1", "mid", "up_0", "up_1", "out")
    norms = np.array([metrics[f"grad_norm/{name}"] for name in modules])
    assert (norms == 0).tolist() == [name.startswith("down") for name in modules]
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(np.sum(norms**2)), rtol=1e-5)
    moved = 0
    for name, value in after.items():
        if not name.startswith("params/"):
            continue
        still = name.startswith("params/down_") or "/self_attention/" in name
        assert np.array_equal(value, before[name]) == still, name
        for average in (after, alone):
            ema = name.replace("params/", "ema/", 1)
            assert np.array_equal(average[ema], before[ema]) == still, name
        moved += not still
    assert moved > 20
    assert not any("down_" in name for name in after if name.startswith("opt_state/"))


def test_eight_devices_freeze_scale_and_measure_as_one(monkeypatch):
    monkeypatch.setattr(partitioning, "MIN_SIZE", 8)
    settings, params = optim("optim.freeze=mid_*/ff_in", "optim.rates=down_*:0.5"), drawn(0)
    tx = make_tx(settings, 10)
    x = np.random.default_rng(1).normal(size=(16, 4)).astype(np.float32)

    def run(count):
        mesh = make_mesh(data=1, fsdp=count, devices=jax.devices()[:count])
        shape = jax.eval_shape(lambda key: create_state(lambda _: params, tx, key), KEY)
        layout = Layout(mesh, tree_specs(shape.params, mesh), "float32")

        def loss(params, frozen, rows, keys):
            whole = jax.tree.leaves(layout.whole(params))
            scale = sum(jnp.sum(jnp.sin(leaf)) for leaf in whole)
            return jnp.mean(jnp.square(rows * scale)), {}

        step = make_train_step(
            loss,
            tx,
            decay=0.5,
            accumulate=16 // count,
            spread=layout.spread_gradient,
            select=Selected(settings.frozen, norms=True),
        )
        placed = tree_sharding(shape, mesh)
        state = jax.jit(lambda key: create_state(lambda _: params, tx, key), out_shardings=placed)(
            KEY
        )
        batch = jax.device_put(x, batch_sharding(mesh))
        state, metrics = jax.jit(step, out_shardings=(placed, None))(state, None, batch)
        return state, {name: float(value) for name, value in metrics.items()}

    (eight, metrics), (one, wanted) = run(8), run(1)
    assert metrics == pytest.approx(wanted, rel=1e-4)
    assert {"grad_norm/down_0", "grad_norm/mid", "grad_norm/embed"} < metrics.keys()
    split = eight.params["mid_0_transformer"]["blocks"]["ff_in"]["kernel"]
    assert not split.sharding.is_fully_replicated
    ours, theirs = named_leaves(eight.params), named_leaves(one.params)
    for name, before in named_leaves(params).items():
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert np.array_equal(ours[name], before) == ("/ff_in/" in name), name


def test_gradients_of_frozen_parameters_are_not_accumulated(monkeypatch):
    """The loop over microbatches carries those of the trained ones alone."""
    big, small = {"kernel": jnp.ones((64, 64))}, {"kernel": jnp.ones((4, 4))}
    params, tx = {"a": big, "b": small}, optax.sgd(0.1)

    def loss(params, frozen, batch, keys):
        return jnp.mean((batch @ params["a"]["kernel"])[:, :4] @ params["b"]["kernel"]), {}

    def temporary(frozen):
        inner = selection.without(frozen, tx)
        step = make_train_step(loss, inner, decay=0.5, accumulate=4, select=Selected(frozen))
        state = jax.jit(lambda key: create_state(lambda _: params, inner, key))(jax.random.key(0))
        lowered = jax.jit(step, donate_argnums=0).lower(state, None, jnp.ones((8, 64)))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(("a",)) < temporary(()) - 64 * 64 * 4 * 0.9
