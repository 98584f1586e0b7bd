"""Test adafactor by hand, statistics in bfloat16, and both on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from states import assert_equal, named_leaves

from cv3jax import recipes
from cv3jax.distributed.mesh import make_mesh
from cv3jax.distributed.partitioning import tree_sharding
from cv3jax.optim import moments, optimizers
from cv3jax.training.parsing import parse_stage
from cv3jax.training.state import make_tx
from cv3jax.training.train_step import create_state, make_train_step
from data_pipeline.io.errors import InputError


def draw(seed, **shapes):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }


def run(tx, params, gradients):
    """Return (parameters after those updates, optimizer state)."""

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), gradients)[0])()


def test_adafactor_s_second_update_by_hand():
    params = draw(0, kernel=(130, 200), short=(4, 200), bias=(200,))
    grads = [draw(seed, kernel=(130, 200), short=(4, 200), bias=(200,)) for seed in (1, 2)]
    grads[1] = jax.tree.map(lambda g: 3 * g, grads[1])
    lr, decay, b2 = 0.1, 0.05, 0.3
    tx = optimizers.make_optimizer(
        optimizers.OptimizerSettings("adafactor", clip=1e9, b2=b2, weight_decay=decay),
        optax.constant_schedule(lr),
    )
    params_after, _ = run(tx, params, jax.tree.map(lambda *g: jnp.stack(g), *grads))

    expected = {name: np.asarray(value, np.float64) for name, value in params.items()}
    squares = [{name: np.asarray(g, np.float64) ** 2 for name, g in grad.items()} for grad in grads]
    assert b2 < 1 - 2**-0.8  # the second update's own average would be longer
    for n, grad in enumerate(grads):
        for name, g in grad.items():
            second = (
                squares[0][name] if n == 0 else b2 * squares[0][name] + (1 - b2) * squares[1][name]
            )
            # the only one with both sides of 128: rows times columns over the mean
            if name == "kernel":
                second = (
                    second.mean(1, keepdims=True) * second.mean(0, keepdims=True) / second.mean()
                )
            update = np.asarray(g, np.float64) / np.sqrt(second)
            update /= max(1.0, np.sqrt((update**2).mean()))
            of_matrix = 0.0 if name == "bias" else decay
            expected[name] = expected[name] - lr * (update + of_matrix * expected[name])
    for name, value in expected.items():
        np.testing.assert_allclose(params_after[name], value, atol=2e-6, err_msg=name)


def test_adafactor_clips_each_layer_of_a_stack_for_itself():
    grads = draw(0, kernel=(3, 130, 140))["kernel"]
    both = grads.at[1].multiply(0.1)  # the second update: large for two layers, small for one
    tx = optimizers.make_optimizer(
        optimizers.OptimizerSettings("adafactor", clip=1e9, b2=0.9), optax.constant_schedule(1.0)
    )
    stacked = run(
        tx,
        {"blocks": {"kernel": jnp.zeros_like(grads)}},
        {"blocks": {"kernel": jnp.stack([grads, 4 * both])}},
    )[0]
    for layer in range(3):
        alone = run(
            tx,
            {"kernel": jnp.zeros_like(grads[0])},
            {"kernel": jnp.stack([grads[layer], 4 * both[layer]])},
        )[0]["kernel"]
        np.testing.assert_allclose(stacked["blocks"]["kernel"][layer], alone, atol=1e-5)


def bytes_of(kind, **options):
    tx = optimizers.make_optimizer(
        optimizers.OptimizerSettings(kind, **options), optax.constant_schedule(0.1)
    )
    shape = jax.eval_shape(
        tx.init, {"blocks": {"kernel": jax.ShapeDtypeStruct((10, 1280, 5120), jnp.float32)}}
    )
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shape)) / (10 * 1280 * 5120)


def test_bytes_a_parameter():
    assert bytes_of("adamw") == pytest.approx(8, rel=1e-6)
    assert bytes_of("adamw", moments="bfloat16") == pytest.approx(4, rel=1e-6)
    assert bytes_of("muon", moments="bfloat16") == pytest.approx(2, rel=1e-6)
    assert bytes_of("adafactor") < 0.01
    assert bytes_of("adafactor", momentum=0.9) == pytest.approx(4, rel=0.01)
    assert bytes_of("adafactor", momentum=0.9, moments="bfloat16") == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("kind", optimizers.OPTIMIZERS)
def test_statistics_in_bfloat16_train_as_in_float32(kind):
    target, x = draw(0, kernel=(16, 8))["kernel"], draw(1, x=(64, 16))["x"]

    def losses(moments):
        tx = optimizers.make_optimizer(
            optimizers.OptimizerSettings(kind, clip=1e9, b2=0.95, momentum=0.9, moments=moments),
            optax.cosine_decay_schedule(0.05, 200),
        )

        def step(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(lambda p: jnp.mean((x @ (p["kernel"] - target)) ** 2))(
                params
            )
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        params = {"kernel": jnp.zeros_like(target)}
        (_, state), out = jax.jit(
            lambda: jax.lax.scan(step, (params, tx.init(params)), None, length=200)
        )()
        stored = {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim}
        assert stored == {jnp.dtype(moments)}
        return out

    exact, rounded = losses("float32"), losses("bfloat16")
    assert exact[-1] < 0.1 * exact[0]
    np.testing.assert_allclose(rounded[:100], exact[:100], rtol=0.1)
    assert rounded[-1] < 0.1 * exact[0]


def test_slow_moments_in_bfloat16_follow_their_mean():
    """With b2 = 0.999 a moment falls from 1 to 0.25.

    Rounded to nearest it would stay at 1, because a thousandth of the way is below its precision.
    """
    tx = moments.stored_in_bfloat16(optax.scale_by_adam(b1=0.9, b2=0.999))
    grads, state = jnp.full(4096, 0.5), tx.init(jnp.zeros(4096))
    state = state._replace(inner=state.inner._replace(nu=jnp.ones(4096, jnp.bfloat16)))

    def step(state, _):
        return tx.update(grads, state)[1], None

    nu = jax.jit(lambda state: jax.lax.scan(step, state, None, length=1000)[0])(
        state
    ).inner.nu.astype(jnp.float32)
    np.testing.assert_allclose(nu.mean(), 0.25 + 0.75 * 0.999**1000, rtol=0.01)


def test_rounding_at_random_has_the_right_mean_and_keeps_what_is_exact():
    x = jnp.array([1.0 + 2**-10, -3.0, 1e-30, 0.0, jnp.inf, -jnp.inf, jnp.nan], jnp.float32)
    rounded = jax.vmap(lambda key: moments.round_at_random(key, x))(
        jax.random.split(jax.random.key(0), 4000)
    )
    assert rounded.dtype == jnp.bfloat16
    rounded = np.asarray(rounded, np.float64)
    assert set(rounded[:, 0]) == {1.0, 1.0 + 2**-7}
    assert rounded[:, 0].mean() == pytest.approx(1 + 2**-10, abs=4 * 2**-7 / 3 / np.sqrt(4000))
    assert rounded[:, 2].mean() == pytest.approx(1e-30, rel=1e-3)
    for i in (1, 3, 4, 5):
        assert set(rounded[:, i]) == {float(x[i])}
    assert np.isnan(rounded[:, 6]).all()


def test_each_update_and_each_parameter_is_rounded_by_a_draw_of_its_own():
    tx = moments.stored_in_bfloat16(optax.trace(0.0))
    grads = {"a": jnp.full(4096, 1 + 2**-8), "b": jnp.full(4096, 1 + 2**-8)}  # up or down
    once = tx.update(grads, tx.init(grads))[1]
    again = tx.update(grads, once)[1]
    up = [
        optax.tree.get(state.inner, "trace")[name] > 1 for state in (once, again) for name in "ab"
    ]
    for i, ours in enumerate(up):
        assert abs(ours.mean() - 0.5) < 0.05
        for theirs in up[:i]:
            assert abs((ours == theirs).mean() - 0.5) < 0.05


def test_eight_devices_hold_parts_and_make_the_updates_of_one():
    tx = optimizers.make_optimizer(
        optimizers.OptimizerSettings("adafactor", momentum=0.9, moments="bfloat16"),
        optax.constant_schedule(0.1),
    )
    shapes = {"blocks": {"kernel": (2, 256, 512)}, "w": (512, 256), "bias": (256,)}
    leaves = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, jnp.float32),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )

    def init(key):
        return jax.tree.map(
            lambda s: jnp.sin(jnp.arange(s.size, dtype=jnp.float32)).reshape(s.shape), leaves
        )

    def loss(params, frozen, batch, keys):
        h = batch @ params["blocks"]["kernel"].sum(0) @ params["w"] + params["bias"]
        return jnp.mean(jnp.sin(h / 400)), {}

    def trained(devices):
        mesh = make_mesh(data=2 if devices == 8 else 1, fsdp=-1, devices=jax.devices()[:devices])
        shardings = tree_sharding(
            jax.eval_shape(lambda key: create_state(init, tx, key), jax.random.key(0)), mesh
        )
        state = jax.jit(lambda key: create_state(init, tx, key), out_shardings=shardings)(
            jax.random.key(0)
        )
        step = jax.jit(make_train_step(loss, tx, decay=0.9), out_shardings=(shardings, None))
        for n in range(3):
            state, _ = step(state, None, draw(n, x=(8, 256))["x"])
        return state

    one, eight = trained(1), trained(8)
    big = [x for x in jax.tree.leaves(eight.opt_state) if x.size >= 2**16]
    assert big
    assert all(x.size == 4 * x.addressable_shards[0].data.size for x in big)
    theirs = named_leaves(eight.params)
    for name, value in named_leaves(one.params).items():
        assert np.abs(value - theirs[name]).mean() < 1e-5, name  # of updates of 0.1


def test_rounding_goes_by_the_element_not_by_the_device():
    mesh, x = make_mesh(data=1, fsdp=8), {"kernel": draw(0, x=(256, 512))["x"]}
    tx = moments.stored_in_bfloat16(optax.trace(0.9))
    split = jax.device_put(x, tree_sharding(x, mesh))
    assert split["kernel"].addressable_shards[0].data.size == 256 * 512 // 8
    states = [jax.jit(lambda g: tx.update(g, tx.init(g))[1])(g) for g in (x, split)]
    assert_equal(*(named_leaves(state) for state in states))


def test_config_names_them():
    def config(field):
        return parse_stage(recipes.load("base_256:tiny", [f"--config.optim.{field}"])).optim

    for field, kinds, dtype in (
        ("kind=adafactor", ("v_row", "v_col"), jnp.float32),
        ("moments=bfloat16", ("mu", "nu"), jnp.bfloat16),
    ):
        state = make_tx(config(field), 4).init({"kernel": jnp.zeros((128, 128))})
        assert [optax.tree.get(state, kind)["kernel"].dtype for kind in kinds] == [dtype] * 2
    with pytest.raises(
        InputError, match=r"config\.optim\.moments = float16: must be one of float32, bfloat16"
    ):
        make_tx(config("moments=float16"), 4)
    with pytest.raises(
        InputError, match=r"config\.optim\.momentum = 1\.0: must be at least 0 and below 1"
    ):
        config("momentum=1.0")
