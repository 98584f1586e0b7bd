"""Test frozen parameters, learning rates by module, and norms of gradients by module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_params import drawn, optim
from states import named_leaves

from cv3jax.cascade.parts import model_shapes
from cv3jax.distributed import partitioning
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from cv3jax.optim import OPTIMIZERS, selection
from cv3jax.training.state import make_tx
from cv3jax.training.train_step import Selected, create_state, make_train_step
from data_pipeline.io.errors import InputError


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
