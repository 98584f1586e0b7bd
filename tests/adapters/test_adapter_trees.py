"""Test adapters as trees beside parameters: the way there and back, ranks, stacks and merging."""

import adapters
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_cascades import UNET, description

from cv3jax.adapters import trees
from cv3jax.adapters.adapter import Adapter
from cv3jax.cascade.parts import build_model, model_shapes
from cv3jax.checkpoints.streaming import walk
from cv3jax.models.adapters import merged
from cv3jax.models.unet import UNet
from cv3jax.weights.mapping import to_torch
from data_pipeline.io.errors import InputError

DEEP = {**UNET, "depth": (0, 3), "mid_depth": 2}


def stage_of(model):
    import dataclasses

    return dataclasses.replace(description().stages["base"], model=model)


def params_of(stage, dtype=jnp.float32):
    rng = np.random.default_rng(1)
    shapes = model_shapes(build_model(UNet, stage.model), stage.text_width)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), dtype), shapes)


def deep_adapter(stage, places=(0, 2), **more):
    """Return an adapter of some layers of a stack, with another rank and alpha each."""
    rng = np.random.default_rng(2)
    shapes = trees.shapes_of(stage)
    layers = {}
    for i in places:
        for end in ("attn1.to_v", "ff.net.0.proj"):
            name = f"input_blocks.3.1.transformer_blocks.{i}.{end}"
            layers[name] = adapters.layer(shapes[name], 1 + i, 0.7 + i, rng, **more)
    return Adapter(layers, "base")


def by_hand(adapter, stage, params, weight=1.0):
    """Return the merged weights in torch's layout, computed layer by layer in float64."""
    table = trees.modules(trees.Sizes.of(stage))
    made = {k: v.astype(np.float64) for k, v in to_torch(params, list(table.values())).items()}
    for name, layer in adapter.layers.items():
        up, down = layer.matrices()
        root = layer.rank**0.5 if adapter.rslora else layer.rank
        key = table[name].torch
        total = made[key] + (weight * layer.alpha / root * up @ down).reshape(layer.shape)
        if layer.magnitude is not None:
            rows = total.reshape(len(total), -1)
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            total = (rows / norms * layer.magnitude[:, None]).reshape(layer.shape)
        made[key] = total
    return made


@pytest.mark.parametrize("bucket", [None, 8])
@pytest.mark.parametrize("kind", ["float32", "float16", "dora"])
def test_there_and_back_keeps_every_bit(kind, bucket):
    more = {"dora": True} if kind == "dora" else {"dtype": np.dtype(kind)}
    ours = adapters.adapter(**more)
    tree = trees.to_tree(ours, adapters.STAGE, bucket=bucket)
    kept = {k: v for k, v in ours.metadata.items() if k != trees.SIZES}
    back = trees.from_tree(tree, trees.specs_of(ours), adapters.STAGE, metadata=kept)
    assert adapters.same(ours, back) == []


def test_a_tree_stands_where_the_kernels_stand():
    tree = trees.to_tree(adapters.adapter(), adapters.STAGE, bucket=4)
    params = params_of(adapters.STAGE)
    kernels = {path[:-1] for path, _ in walk(params) if path[-1] == "kernel"}
    found = {path[:-1] for path, _ in walk(tree)}
    assert found < kernels
    own = trees.leaves_of(tree)
    assert own[("conv_in", "kernel")]["lora_down"].shape == (3, 3, 4, 4)
    assert own[("conv_in", "kernel")]["lora_up"].shape == (1, 1, 4, 16)
    stacked = own[("mid_0_transformer", "blocks", "ff_in", "kernel")]
    shapes = {key: value.shape for key, value in stacked.items()}
    assert shapes == {"lora_down": (1, 32, 4), "lora_up": (1, 4, 256), "lora_scale": (1,)}


def test_a_tree_of_training_is_an_adapter_of_one_rank_and_alpha():
    """Whose stacks have an adapter in each layer."""
    stage = stage_of(DEEP)
    ours = deep_adapter(stage, range(3), dora=True)
    tree = trees.to_tree(ours, stage, bucket=4)
    made = trees.from_tree(tree, trees.specs_in(tree, stage, 2.0), stage, rslora=True)
    assert made.layers.keys() == ours.layers.keys()
    assert {(one.rank, one.alpha) for one in made.layers.values()} == {(4, 2.0)}
    assert made.scale(next(iter(made.layers))) == 1.0
    for name, layer in ours.layers.items():
        assert (made.layers[name].down[: layer.rank] == layer.down).all()
        assert (made.layers[name].magnitude == layer.magnitude).all()


def test_mixed_ranks_of_a_stack_are_padded_and_scaled_each_by_its_own():
    stage = stage_of(DEEP)
    ours = deep_adapter(stage)
    tree = trees.to_tree(ours, stage)
    node = tree["down_1_0_transformer"]["blocks"]["self_attention"]["v"]
    assert node["lora_down"].shape == (3, 32, 3)
    np.testing.assert_allclose(node["lora_scale"], [0.7, 0, 2.7 / 3], rtol=1e-7)
    assert not node["lora_down"][1].any()
    assert not node["lora_down"][0][:, 1:].any()
    back = trees.from_tree(tree, trees.specs_of(ours), stage)
    assert adapters.same(ours, back) == ["metadata"]  # which now has the sizes


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dora", [False, True])
def test_merging_is_the_sum_layer_by_layer(dora, rslora):
    for stage, ours in (
        (adapters.STAGE, adapters.adapter(dora=dora, rslora=rslora)),
        (stage_of(DEEP), deep_adapter(stage_of(DEEP), dora=dora)),
    ):
        params = params_of(stage)
        tree = trees.to_tree(ours, stage, bucket=16, weight=0.5)
        made = jax.jit(merged)(params, tree)
        table = list(trees.modules(trees.Sizes.of(stage)).values())
        wanted = by_hand(ours, stage, params, weight=0.5)
        for name, value in to_torch(made, table).items():
            np.testing.assert_allclose(value, wanted[name], atol=2e-6, err_msg=name)
        assert sum((to_torch(params, table)[k] != v).any() for k, v in wanted.items()) == len(
            ours.layers
        )


def test_a_stack_may_have_dora_in_some_layers():
    stage = stage_of(DEEP)
    one, other = deep_adapter(stage, [0], dora=True), deep_adapter(stage, [1])
    both = Adapter({**one.layers, **other.layers}, "base")
    params = params_of(stage)
    made = merged(params, trees.to_tree(both, stage))
    wanted = by_hand(both, stage, params)
    table = list(trees.modules(trees.Sizes.of(stage)).values())
    for name, value in to_torch(made, table).items():
        np.testing.assert_allclose(value, wanted[name], atol=2e-6, err_msg=name)


def test_what_is_not_adapted_is_the_same_array_and_keeps_its_type():
    params = params_of(adapters.STAGE, jnp.bfloat16)
    tree = trees.to_tree(adapters.adapter(["out.2"]), adapters.STAGE)
    made = merged(params, tree)
    changed = [
        path for (path, a), (_, b) in zip(walk(params), walk(made), strict=True) if a is not b
    ]
    assert changed == [("conv_final", "kernel")]
    assert made["conv_final"]["kernel"].dtype == jnp.bfloat16


def test_ranks_fall_into_buckets():
    assert [trees.bucket_of([n]) for n in (1, 4, 5, 16, 17, 256, 300)] == [
        4,
        4,
        8,
        16,
        32,
        256,
        300,
    ]
    with pytest.raises(InputError, match="has the rank 4, and may have 2"):
        trees.to_tree(adapters.adapter(), adapters.STAGE, bucket=2)


def test_an_adapter_of_another_model_is_refused_with_its_layers():
    other = stage_of({**UNET, "channels": 24})
    with pytest.raises(InputError, match=r"made for another model: .* \[32, 32\].* \[48, 48\]"):
        trees.to_tree(adapters.adapter(), other)
    shallow = stage_of({**UNET, "depth": (0, 0), "mid_depth": 0})
    with pytest.raises(InputError, match="the base has no middle_block"):
        trees.to_tree(adapters.adapter(), shallow)
