"""Test attention kernels against XLA's attention, forward and gradient.

Pallas kernels run interpreted; ours for CPUs run compiled.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attentions import (
    assert_close,
    calls,
    draw,
    heads,
    one_device,
    primitives,
    splash,
    with_gradients,
)
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax.distributed.mesh import BATCH, make_mesh
from cv3jax.kernels import attention, attention_cpu
from cv3jax.kernels.attention import make_attend
from cv3jax.models.transformer import SpatialTransformer


@pytest.mark.parametrize(
    "shape", [(2, 256, 225, 2), (1, 100, 77, 2, 16), (1, 384, 256, 1)], ids=str
)
def test_splash_is_xla_s_attention_and_gradient(shape):
    inputs = draw(*shape)
    mesh, dim = one_device(), inputs[0].shape[-1]
    ours = jax.jit(with_gradients(splash(mesh, head_dim=dim)))(*inputs)
    assert_close(ours, jax.jit(with_gradients(attention.xla))(*inputs), 3e-6)


@pytest.mark.parametrize(
    "cached", [1, 2 * 4 * 64 * 77, 2**30], ids=["one head", "some heads", "all heads"]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_by_heads_is_xla_s_attention_and_gradient(cached, dtype, monkeypatch):
    monkeypatch.setattr(attention_cpu, "CACHED", cached)
    inputs = draw(2, 64, 77, 3, 48)
    ours = jax.jit(with_gradients(heads(one_device(), dtype)))(*(x.astype(dtype) for x in inputs))
    assert all(x.dtype == dtype for x in ours)
    assert_close(
        ours,
        jax.jit(with_gradients(attention.xla))(*inputs),
        {"float32": 3e-6, "bfloat16": 0.02}[dtype],
    )


@pytest.mark.parametrize("cached", [4 * 64 * 64, 2 * 4 * 64 * 64, 2**30])
def test_by_heads_holds_no_more_logits_than_it_may(cached, monkeypatch):
    monkeypatch.setattr(attention_cpu, "CACHED", cached)
    run = with_gradients(heads(one_device()))
    equations = primitives(
        jax.make_jaxpr(run)(*jax.eval_shape(lambda: draw(2, 64, 64, 3, 16))).jaxpr
    )
    shapes = [out.aval.shape for equation in equations for out in equation.outvars]
    assert max(4 * shape[0] * 64 * 64 for shape in shapes if shape[-2:] == (64, 64)) == min(
        cached, 6 * 4 * 64 * 64
    )


def test_auto_goes_by_heads_on_a_cpu():
    def names(kind):
        attend = make_attend(kind, "cpu", one_device(), head_dim=16, dtype="float32")
        jaxpr = jax.make_jaxpr(attend)(*jax.eval_shape(lambda: draw(1, 8, 8, 1, 16))[:3])
        return {equation.primitive.name for equation in primitives(jaxpr.jaxpr)}

    assert "custom_vjp_call" in names("auto")
    assert names("auto") == names("heads")
    assert "custom_vjp_call" not in names("xla")


def test_large_logits_do_not_overflow_by_heads():
    q, k, v, _ = draw(1, 8, 8, 1, 8)
    out = jax.jit(heads(one_device()))(1e3 * q, 1e3 * k, v)
    np.testing.assert_allclose(out, attention.xla(1e3 * q, 1e3 * k, v), atol=1e-4)


def test_splash_in_several_blocks_of_bfloat16(monkeypatch):
    monkeypatch.setattr(attention, "FORWARD", (128, 256, 128))
    monkeypatch.setattr(attention, "BACKWARD", (128, 256, 128))
    inputs = draw(1, 256, 512, 1, dtype=jnp.bfloat16)
    ours = jax.jit(with_gradients(splash(one_device(), dtype=jnp.bfloat16)))(*inputs)
    assert all(x.dtype == jnp.bfloat16 for x in ours)
    exact = jax.jit(with_gradients(attention.xla))(*(x.astype(jnp.float32) for x in inputs))
    assert_close(ours, exact, 0.02)


def test_what_stands_in_the_padding_has_no_influence(monkeypatch):
    inputs = draw(1, 200, 225, 1)
    outcomes = []
    for fill in (0.0, 50.0):

        def filled(x, fill=fill):
            return jnp.pad(
                x, ((0, 0), (0, -x.shape[1] % 128), (0, 0), (0, 0)), constant_values=fill
            )

        monkeypatch.setattr(attention, "padded", filled)
        outcomes.append(jax.jit(with_gradients(splash(one_device())))(*inputs))
    for a, b in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("inside", [False, True], ids=["jit", "train step"])
@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((1, 2, 2, 2), (2, 256, 225, 2)),
        ((2, 2, 2, 1), (4, 130, 130, 3)),
    ],
    ids=["every axis", "heads do not divide"],
)
def test_eight_devices_make_the_attention_of_one(sizes, shape, inside):
    mesh = make_mesh(**dict(zip(("data", "fsdp", "tensor", "context"), sizes, strict=True)))
    inputs = draw(*shape)
    run = with_gradients(splash(mesh))
    if inside:  # as the train step: data and fsdp by hand, the rest by the compiler
        run = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=P(BATCH),
            out_specs=P(BATCH),
            axis_names=set(BATCH),
            check_vma=False,
        )
    rows = NamedSharding(mesh, P(BATCH))
    ours = jax.jit(run)(*(jax.device_put(x, rows) for x in inputs))
    assert_close(ours, jax.jit(with_gradients(attention.xla))(*inputs), 3e-6)


def test_a_batch_that_does_not_divide_is_computed_whole():
    mesh, inputs = make_mesh(), draw(1, 128, 128, 1)
    np.testing.assert_allclose(
        jax.jit(splash(mesh))(*inputs[:3]), attention.xla(*inputs[:3]), atol=2e-6
    )


def test_each_device_has_its_images_heads_and_queries():
    mesh = make_mesh(data=1, fsdp=2, tensor=2, context=2)
    forward = calls(splash(mesh), 4, 512, 225, 2)[0]
    shapes = [x.aval.shape for x in forward.invars if len(x.aval.shape) == 4]
    # images, heads, positions: half of the queries, all keys
    assert shapes == [(2, 1, 256, 64), (2, 1, 256, 64), (2, 1, 256, 64)]


def test_transformers_with_remat_and_scan_train_alike():
    mesh = make_mesh(data=1, fsdp=2, tensor=2, context=2)
    x, text = (
        jax.random.normal(jax.random.key(0), (2, 8, 8, 32)),
        jax.random.normal(jax.random.key(1), (2, 9, 16)),
    )
    init = jax.jit(SpatialTransformer(2, 16, groups=4).init)
    # away from the zeros at its end
    params = jax.tree.map(lambda p: p + 0.1, init(jax.random.key(2), x, text)["params"])

    def gradients(attend):
        model = SpatialTransformer(2, 16, groups=4, attend=attend)
        apply = jax.checkpoint(lambda params, x, text: model.apply({"params": params}, x, text))

        def local(params, x, text):
            loss, grads = jax.value_and_grad(
                lambda params: jnp.square(apply(params, x, text)).sum()
            )(params)
            return jax.lax.psum((loss, grads), BATCH)

        spread = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), P(BATCH), P(BATCH)),
            out_specs=P(),
            axis_names=set(BATCH),
            check_vma=False,
        )
        return jax.jit(spread)(params, x, text)

    ours, theirs = gradients(splash(mesh, head_dim=16)), gradients(attention.xla)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()), ours, theirs
    )
