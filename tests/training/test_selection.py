"""Test frozen parameters, learning rates by module, and norms of gradients by module."""

import dataclasses
import functools

import hollow_networks as hn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from states import named_leaves

from cv3jax import recipes
from cv3jax.cascade.parts import model_shapes
from cv3jax.checkpoints.description import TextDescription, VaeDescription
from cv3jax.distillation.programs import distillation_step
from cv3jax.distributed import partitioning
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.mesh import batch_sharding, make_mesh
from cv3jax.distributed.partitioning import tree_sharding, tree_specs
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from cv3jax.optim import OPTIMIZERS, selection
from cv3jax.training.autoencoder import vae_program
from cv3jax.training.data import batch_like
from cv3jax.training.parsing import parse_stage
from cv3jax.training.programs import diffusion_programs, train_args
from cv3jax.training.stage import mesh_plan
from cv3jax.training.state import make_tx, selected, state_creator
from cv3jax.training.train_step import Selected, create_state, make_train_step
from data_pipeline.io.errors import InputError

VAE = VaeDescription(
    {"channels": 8, "channel_mult": [1], "res_blocks": 1, "z_channels": 4, "groups": 4, "patch": 4},
    0.5,
)
TEXT = TextDescription(
    {"vocab": 64, "channels": 8, "layers": 1, "heads": 1, "head_dim": 8, "ff": 8}, length=2
)
SHAPES = {
    "down_0_0": {"conv": {"kernel": (3, 3, 4, 6), "bias": (6,)}},
    "mid_0_transformer": {"blocks": {"ff_in": {"kernel": (2, 6, 8)}, "norm": {"scale": (2, 6)}}},
    "time_in": {"kernel": (5, 6)},
}


def drawn(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def optim(*fields: str):
    given = ("optim.lr=0.1", "optim.warmup=0", "optim.clip=0.5", *fields)
    return parse_stage(recipes.load("scenes_base:tiny", [f"--config.{one}" for one in given])).optim


def updated(settings, params: dict, norms: bool = False, decay: float = 0.5):
    """Return (state, metrics) after two steps whose gradients are fixed."""
    grads = drawn(7)

    def loss(params, frozen, batch, keys):
        return sum(map(jnp.vdot, jax.tree.leaves(params), jax.tree.leaves(batch))), {}

    # only the trees that are there
    batch = {top: grads[top] for top in params}
    tx = make_tx(settings, 10)
    made = make_train_step(
        lambda p, f, b, k: loss(p, f, batch, k),
        tx,
        decay=decay,
        select=Selected(settings.frozen, norms),
    )
    state = jax.jit(lambda key: create_state(lambda _: params, tx, key))(jax.random.key(0))
    for _ in range(2):
        state, metrics = jax.jit(made)(state, None, jnp.zeros((1,)))
    return state, metrics


@pytest.mark.parametrize(
    ("pattern", "fitting"),
    [
        ("down_*", {"down_0_0/conv/kernel", "down_0_0/conv/bias"}),
        ("down_0_0/conv", {"down_0_0/conv/kernel", "down_0_0/conv/bias"}),
        ("*/bias", {"down_0_0/conv/bias"}),
        ("*/blocks/n*", {"mid_0_transformer/blocks/norm/scale"}),
        ("time_in", {"time_in/kernel"}),
        ("time", set()),
        ("conv", set()),
    ],
)
def test_a_pattern_means_the_paths_that_begin_as_it_says(pattern, fitting):
    paths = [partitioning.names(path) for path, _ in jax.tree.leaves_with_path(drawn(0))]
    assert {"/".join(path) for path in paths if selection.fits(pattern, path)} == fitting


@pytest.mark.parametrize(
    ("kind", "moments"), [*((kind, "float32") for kind in OPTIMIZERS), ("muon", "bfloat16")]
)
def test_frozen_parameters_stay_and_have_no_moments_and_the_others_train_as_if_alone(kind, moments):
    params = drawn(0)
    params["down_0_0"]["conv"]["bias"] = jnp.array([-0.0, 0.1, 1e-30, 3.3, 7.7, -2.2])
    own = (f"optim.kind={kind}", f"optim.moments={moments}", "optim.weight_decay=0.1")
    state, metrics = updated(optim(*own, "optim.freeze=down_*"), params)
    for tree in (state.params, state.ema):  # bit for bit, of -0 too
        for name, value in named_leaves(tree["down_0_0"]).items():
            before = named_leaves(params["down_0_0"])[name]
            np.testing.assert_array_equal(value.view(np.uint32), before.view(np.uint32))
    assert not any("down" in name for name in named_leaves(state.opt_state))
    rest = {name: tree for name, tree in params.items() if name != "down_0_0"}
    alone, wanted = updated(optim(*own), rest)
    np.testing.assert_allclose(metrics["grad_norm"], wanted["grad_norm"], rtol=1e-6)
    # of bfloat16, each leaf is rounded by a draw of its own
    close = {"rtol": 1e-5} if moments == "float32" else {"rtol": 0, "atol": 2e-3}
    for name, value in named_leaves(alone.params).items():
        np.testing.assert_allclose(named_leaves(state.params)[name], value, **close, err_msg=name)

    def size(state):
        return sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)

    assert size(state) == size(alone) < size(updated(optim(*own), params)[0])


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_rates_multiply_the_updates_of_what_they_fit_and_the_first_counts(kind):
    params = drawn(0)
    own = (f"optim.kind={kind}", "optim.weight_decay=0.1")
    rates = "optim.rates=*/norm:0.25, mid_*:0.5,*/scale:9"
    (one, _), (other, _) = updated(optim(*own), params), updated(optim(*own, rates), params)
    assert jax.tree.structure(one.opt_state) == jax.tree.structure(other.opt_state)
    factors = {"mid_0_transformer/blocks/norm/scale": 0.25}
    factors["mid_0_transformer/blocks/ff_in/kernel"] = 0.5
    before, plain, scaled = (named_leaves(x) for x in (params, one.params, other.params))
    # the second step's weight decay is of other parameters: less than a hundredth of the update
    for name, value in before.items():
        moved = factors.get(name, 1.0) * (plain[name] - value)
        np.testing.assert_allclose(scaled[name] - value, moved, rtol=0.02, atol=1e-4, err_msg=name)


def test_rates_and_freezing_go_together():
    settings = optim("optim.kind=muon", "optim.freeze=time_*", "optim.rates=*/conv:2.0")
    params = drawn(0)
    state, _ = updated(settings, params)
    np.testing.assert_array_equal(state.params["time_in"]["kernel"], params["time_in"]["kernel"])
    plain, _ = updated(optim("optim.kind=muon", "optim.freeze=time_*"), params)
    moved = [tree.params["down_0_0"]["conv"]["bias"] for tree in (state, plain)]
    before = params["down_0_0"]["conv"]["bias"]
    np.testing.assert_allclose(moved[0] - before, 2 * (moved[1] - before), rtol=1e-5)


def test_norms_are_by_module_and_add_up():
    params, grads = drawn(0), drawn(7)
    _, metrics = updated(optim(), params, norms=True)
    names = {"down_0_0": "down_0", "mid_0_transformer": "mid", "time_in": "embed"}
    for top, module in names.items():
        squares = [np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(grads[top])]
        np.testing.assert_allclose(metrics[f"grad_norm/{module}"], sum(squares) ** 0.5, rtol=1e-6)
    whole = sum(float(metrics[f"grad_norm/{module}"]) ** 2 for module in names.values())
    np.testing.assert_allclose(metrics["grad_norm"], whole**0.5, rtol=1e-6)
    assert not any("/" in name for name in updated(optim(), params)[1])


@pytest.mark.parametrize(
    ("model", "modules"),
    [
        (
            UNet(channels=8, channel_mult=(1, 2), res_blocks=1, depth=(0, 1), groups=4, head_dim=8),
            {"in", "embed", "down_0", "down_1", "mid", "up_0", "up_1", "out"},
        ),
        (
            Autoencoder(channels=8, channel_mult=(1,), res_blocks=1, groups=4),
            {f"encoder_{name}" for name in ("in", "down_0", "mid", "out")}
            | {f"decoder_{name}" for name in ("in", "up_0", "mid", "out")}
            | {"quant", "post_quant"},
        ),
    ],
)
def test_the_modules_of_a_network(model, modules):
    shapes = model_shapes(model, 16) if isinstance(model, UNet) else model_shapes(model)
    paths = [partitioning.names(path) for path, _ in jax.tree.leaves_with_path(shapes)]
    assert {selection.module(path) for path in paths} == modules


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (
            "optim.freeze=mid_0",
            r"config\.optim\.freeze: 'mid_0' fits no parameter; there are down_0_0,"
            r" mid_0_transformer, time_in, and what is in them, such as mid_0_transformer/blocks/",
        ),
        ("optim.freeze=time_in,Down_*", r"config\.optim\.freeze: 'Down_\*' fits no parameter"),
        ("optim.rates=up_*:0.5", r"config\.optim\.rates: 'up_\*' fits no parameter"),
        ("optim.freeze=*", r"config\.optim\.freeze = \*: freezes every parameter"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused_with_what_there_is(field, said):
    with pytest.raises(InputError, match=said) as e:
        make_tx(optim(field), 10).init(drawn(0))
    assert "\n" not in str(e.value)


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
