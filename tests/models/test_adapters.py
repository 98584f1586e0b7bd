"""Test adapters: beside the kernels they do what merged ones do, and without a change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import split_small

from cv3jax.cascade.parts import unet_init
from cv3jax.diffusion.conditioning import make_cond, picture_sizes
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.mesh import make_mesh
from cv3jax.distributed.partitioning import tree_sharding, tree_specs
from cv3jax.models import adapters
from cv3jax.models.unet import UNet

SIZES = {
    "channels": 16,
    "channel_mult": (1, 2),
    "res_blocks": 1,
    "depth": (0, 2),
    "mid_depth": 1,
    "head_dim": 8,
    "groups": 4,
}
WIDTH, RANK, SCALE = 12, 3, 0.7
DEEP = "down_1_0_transformer/blocks"
KINDS = {
    "attention": (f"{DEEP}/self_attention/q", f"{DEEP}/self_attention/out"),
    "cross-attention": (f"{DEEP}/cross_attention/k", f"{DEEP}/cross_attention/v"),
    "feed-forward": (f"{DEEP}/ff_in", f"{DEEP}/ff_out"),
    "convolution": ("conv_in", "down_0_0/conv_in", "up_0_0/conv_out", "conv_final"),
    "stride 2": ("down_0_sample",),
    "1x1": ("down_1_0/skip",),
    "embedding": ("time_in", "size_out", "mid_0/emb"),
}


@pytest.fixture(scope="module")
def params():
    """Return parameters of which none is zero."""
    shapes = jax.eval_shape(unet_init(UNet(**SIZES), WIDTH), jax.random.key(0))
    return random_like(shapes, 0)


def random_like(shapes, seed: int):
    """Return normal arrays whose products neither vanish nor grow."""
    draws = np.random.default_rng(seed)

    def one(x):
        fan = max(int(np.prod(x.shape[-2:-1])), 1)
        return jnp.asarray(draws.normal(size=x.shape) / fan**0.5, jnp.float32)

    return jax.tree.map(one, shapes)


def inputs(rows: int = 2):
    draws = np.random.default_rng(1)
    x = jnp.asarray(draws.normal(size=(rows, 8, 8, 4)), jnp.float32)
    text = jnp.asarray(draws.normal(size=(rows, 5, WIDTH)), jnp.float32)
    return x, jnp.arange(rows), make_cond(text, picture_sizes(rows, 64, 64))


def tree_of(params, paths, *, dora: bool = False, seed: int = 2):
    """Return a random adapter tree, with its constants."""
    tree = adapters.fresh(params, paths, RANK, jax.random.key(3), dora=dora)
    moved = jax.tree.map(lambda x, y: x + 0.5 * y, tree, random_like(tree, seed))
    return both(moved, adapters.constants(params, paths, SCALE))


def both(a, b):
    """Return two nested dicts as one."""
    shared = a.keys() & b.keys()
    return {**a, **b, **{name: both(a[name], b[name]) for name in shared}}


def unmerged(params, tree, *, model=None, dropout=None):
    model = model or UNet(**SIZES)

    def run(params, tree):
        with adapters.adapting(dropout):
            return model.apply({"params": adapters.joined(params, tree)}, *inputs())

    return jax.jit(run)(params, tree)


def plain(params):
    return jax.jit(lambda p: UNet(**SIZES).apply({"params": p}, *inputs()))(params)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_beside_the_kernel_is_merged(params, kind, dora):
    tree = tree_of(params, KINDS[kind], dora=dora)
    one = plain(adapters.merged(params, tree))
    np.testing.assert_allclose(unmerged(params, tree), one, rtol=0, atol=1e-5 * jnp.abs(one).max())
    assert jnp.abs(one - plain(params)).max() > 1e-3 * jnp.abs(one).max()


EVERY = tuple(path for paths in KINDS.values() for path in paths)


def test_the_keys_and_values_of_a_text_are_those_of_merged_kernels(params):
    tree, model = tree_of(params, KINDS["cross-attention"]), UNet(**SIZES)
    x, index, cond = inputs()
    merged = adapters.merged(params, tree)

    def by_kv(merged):
        text = model.text_kv(merged, cond["text"])
        return model.apply({"params": merged}, x, index, {**cond, "text": text})

    one = jax.jit(by_kv)(merged)
    np.testing.assert_allclose(unmerged(params, tree), one, rtol=0, atol=1e-5 * jnp.abs(one).max())


def test_fresh_adapters_are_the_base_bit_for_bit(params):
    tree = adapters.fresh(params, EVERY, RANK, jax.random.key(3), dora=False)
    both_of = both(tree, adapters.constants(params, EVERY, SCALE))
    np.testing.assert_array_equal(unmerged(params, both_of), plain(params))
    merged = adapters.merged(params, both_of)
    jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_fresh_magnitudes_are_those_of_the_kernels(params):
    tree = adapters.fresh(params, EVERY, RANK, jax.random.key(3), dora=True)
    both_of = both(tree, adapters.constants(params, EVERY, SCALE))
    one = plain(params)
    np.testing.assert_allclose(unmerged(params, both_of), one, rtol=0, atol=1e-5)
    merged = adapters.merged(params, both_of)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged, params)


def test_a_fresh_draw_depends_on_path_and_key_alone(params):
    several, alone = (
        adapters.fresh(params, paths, RANK, jax.random.key(3), dora=False)
        for paths in (EVERY, ("conv_in",))
    )
    jax.tree.map(np.testing.assert_array_equal, several["conv_in"], alone["conv_in"])
    other = adapters.fresh(params, ("conv_in",), RANK, jax.random.key(4), dora=False)
    down = alone["conv_in"][adapters.DOWN]
    assert not np.array_equal(down, other["conv_in"][adapters.DOWN])
    assert down.shape == (3, 3, 4, RANK)
    bound = 36**-0.5  # uniform in ±1/√fan_in
    assert 0.9 * bound < np.abs(down).max() <= bound
    assert abs(float(down.std()) - bound / 3**0.5) < 0.1 * bound
    for name in ("q", "out"):
        stacked = several["down_1_0_transformer"]["blocks"]["self_attention"][name][adapters.DOWN]
        assert stacked.shape == (2, 32, RANK)
        assert not np.array_equal(stacked[0], stacked[1])


def test_the_factors_gradient_is_the_matrix_s_projected(params):
    tree, weights = tree_of(params, EVERY), random_like(jnp.zeros((2, 8, 8, 4)), 5)

    def by_factors(tree):
        with adapters.adapting():
            made = UNet(**SIZES).apply({"params": adapters.joined(params, tree)}, *inputs())
        return jnp.sum(made * weights)

    def by_kernels(params):
        return jnp.sum(UNet(**SIZES).apply({"params": params}, *inputs()) * weights)

    factors = jax.jit(jax.grad(by_factors, allow_int=True))(tree)
    dense = adapters.kernels(jax.jit(jax.grad(by_kernels))(adapters.merged(params, tree)))
    for path in EVERY:
        mine, ours = factors, tree
        for name in path.split("/"):
            mine, ours = mine[name], ours[name]
        g, down, up = dense[path], ours[adapters.DOWN], ours[adapters.UP]
        right_up = SCALE * jnp.einsum(
            "dkr,dko->dro", rows(down, path), rows(g, path), precision="highest"
        )
        right_down = SCALE * jnp.einsum(
            "dko,dro->dkr", rows(g, path), rows(up, path), precision="highest"
        )
        for name, right in ((adapters.UP, right_up), (adapters.DOWN, right_down)):
            got, most = rows(mine[name], path), float(jnp.abs(right).max())
            np.testing.assert_allclose(got, right, rtol=0, atol=2e-4 * most, err_msg=path)
            assert most > 0


def rows(x, path):
    """Return a stack of matrices [depth, rows, columns]."""
    depth = x.shape[0] if "blocks" in path else 1
    return x.reshape(depth, -1, x.shape[-1])


@pytest.mark.parametrize("remat", ["block", "full"])
def test_recomputation_does_not_change_gradients(params, remat):
    tree = tree_of(params, EVERY, dora=True)
    keys = jax.random.split(jax.random.key(8), 2)

    def loss(tree, model):
        with adapters.adapting(adapters.Dropout(0.5, keys)):
            made = model.apply({"params": adapters.joined(params, tree)}, *inputs())
        return jnp.sum(made**2)

    models = (UNet(**SIZES, remat=kind) for kind in (remat, "none"))
    gradient = jax.jit(jax.grad(loss, allow_int=True), static_argnums=1)
    ours, theirs = (gradient(tree, model) for model in models)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if a.dtype == jnp.float32:
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * max(float(jnp.abs(b).max()), 1))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_mesh_of_eight_devices_gives_what_one_does(params, dropout):
    mesh, batch = make_mesh(data=2, fsdp=4), 8
    tree = tree_of(params, EVERY, dora=True)
    keys = jax.random.split(jax.random.key(8), batch)

    def run(joined, frozen, rows, model=None):
        inputs, keys = rows
        with adapters.adapting(adapters.Dropout(dropout, keys)):
            return (model or UNet(**SIZES)).apply({"params": joined}, *inputs)

    whole = adapters.joined(params, tree)
    one = jax.jit(run)(whole, {}, (inputs(batch), keys))
    with split_small():
        layout = Layout(mesh, tree_specs(whole, mesh), jnp.float32)
        model = UNet(**SIZES, gather=layout.gather, constrain=layout.constrain, remat="block")
        spread = layout.spread(
            lambda p, frozen, batch: run(layout.whole(p, UNet.gathers), frozen, batch, model)
        )
        placed = jax.device_put(whole, tree_sharding(whole, mesh))
    split = {str(x.sharding.spec) for x in jax.tree.leaves(placed)}
    assert len(split) > 3  # adapters are sharded too
    several = jax.jit(spread)(placed, {}, (inputs(batch), keys))
    np.testing.assert_allclose(several, one, rtol=0, atol=2e-5 * float(jnp.abs(one).max()))


def test_dropout_draws_by_row_and_layer(params):
    tree, model = tree_of(params, EVERY), UNet(**SIZES)
    keys = jax.random.split(jax.random.key(8), 4)

    @jax.jit
    def run(rows, keys):
        x, index, cond = jax.tree.map(lambda x: x[rows], inputs(4))
        with adapters.adapting(adapters.Dropout(0.5, keys)):
            return model.apply({"params": adapters.joined(params, tree)}, x, index, cond)

    order = jnp.asarray([2, 0, 3, 1])
    whole, moved = run(jnp.arange(4), keys), run(order, keys[order])
    np.testing.assert_allclose(moved, whole[order], rtol=0, atol=1e-5 * jnp.abs(whole).max())
    other = run(jnp.arange(4), jax.random.split(jax.random.key(9), 4))
    assert jnp.abs(other - whole).max() > 1e-2 * jnp.abs(whole).max()
    leaves = jax.tree.leaves_with_path(tree)
    numbers = [leaf for path, leaf in leaves if path[-1].key == adapters.LAYER]
    flat = np.concatenate([np.ravel(x) for x in numbers])
    assert len(set(flat.tolist())) == len(flat) > len(EVERY)


def test_dropped_values_are_zero_and_the_others_enlarged():
    x = jnp.ones((3, 1000))
    keys = jax.random.split(jax.random.key(0), 3)
    made = np.asarray(adapters._drop(adapters.Dropout(0.2, keys), jnp.uint32(7), x))
    assert set(np.unique(made)) == {0.0, np.float32(1 / 0.8)}
    np.testing.assert_allclose((made == 0).mean(1), 0.2, atol=0.04)
    assert not np.array_equal(made[0], made[1])


def test_an_adapter_without_a_matrix_is_refused(params):
    leaf = {adapters.DOWN: jnp.zeros((4, 2))}
    with pytest.raises(ValueError, match="the model has no matrix norm_out"):
        adapters.joined(params, {"norm_out": leaf})
    with pytest.raises(ValueError, match="the model has no module mid_0/q"):
        adapters.joined(params, {"mid_0": {"q": leaf}})


def test_kernels_are_all_matrices(params):
    known = adapters.kernels(params)
    assert set(EVERY) < known.keys()
    matrices = [x for path, x in jax.tree.leaves_with_path(params) if path[-1].key == "kernel"]
    assert len(known) == len(matrices)


@pytest.mark.parametrize("case", ["no dora", "zeros"])
def test_a_column_without_a_length_is_only_added_to(params, case):
    tree = tree_of(params, ("mid_0/emb",), dora=True)
    node = tree["mid_0"]["emb"]
    if case == "zeros":
        zeros = jax.tree.map(jnp.zeros_like, params["mid_0"]["emb"])
        params = {**params, "mid_0": {**params["mid_0"], "emb": zeros}}
        node[adapters.UP] = jnp.zeros_like(node[adapters.UP])
    else:
        node[adapters.MAGNITUDE] = jnp.full_like(node[adapters.MAGNITUDE], adapters.NO_DORA)
    merged = adapters.merged(params, tree)["mid_0"]["emb"]["kernel"]
    change = SCALE * jnp.matmul(node[adapters.DOWN], node[adapters.UP], precision="highest")
    np.testing.assert_allclose(merged, params["mid_0"]["emb"]["kernel"] + change, atol=1e-6)
    one = plain(adapters.merged(params, tree))
    np.testing.assert_allclose(unmerged(params, tree), one, rtol=0, atol=1e-5 * jnp.abs(one).max())
