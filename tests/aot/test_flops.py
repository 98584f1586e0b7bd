"""Test each rule of the FLOP count against a closed formula."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from cv3jax.distributed.mesh import make_mesh
from cv3jax.kernels import attention, flops


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def dots(x, w):
    return jnp.tanh(x @ w) @ w


def test_a_scan_counts_each_of_its_steps_and_remat_what_it_recomputes():
    x, ws = floats(4, 8), floats(5, 8, 8)
    one = 2 * 4 * 8 * 8

    def scanned(x, ws, body=dots):
        return jax.lax.scan(lambda x, w: (body(x, w), None), x, ws)[0]

    assert flops.count(scanned, x, ws).total == 5 * 2 * one
    assert flops.count(jax.jit(scanned), x, ws).total == 5 * 2 * one
    back = jax.grad(lambda ws, x, body: scanned(x, ws, body).sum())
    assert flops.count(functools.partial(back, body=dots), ws, x).total == 5 * 6 * one
    counted = flops.count(functools.partial(back, body=jax.checkpoint(dots)), ws, x)
    # the last product of the body is not needed again
    assert (counted.total, counted.recomputed) == (5 * 7 * one, 5 * one)


def test_dead_code_and_elementwise_work_are_nothing():
    assert flops.count(lambda x, w: (x @ w, x + 1)[1], floats(4, 8), floats(8, 8)).total == 0


def test_of_a_branch_the_dearer_side():
    def branch(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: dots(x, w), lambda: x @ w)

    assert flops.count(branch, floats(4, 8), floats(8, 8)).total == 2 * 2 * 4 * 8 * 8


def test_a_loop_of_unknown_length_is_refused_only_where_it_multiplies():
    def loop(n, x, w, body):
        return jax.lax.fori_loop(0, n, lambda _, x: body(x, w), x)

    n, x = jax.ShapeDtypeStruct((), jnp.int32), floats(8, 8)
    with pytest.raises(ValueError, match="while loop with matrix products"):
        flops.count(functools.partial(loop, body=jnp.matmul), n, x, x)
    assert flops.count(functools.partial(loop, body=jnp.add), n, x, x).total == 0
    assert flops.count(lambda x, w: loop(3, x, w, jnp.matmul), x, x).total == 3 * 2 * 8**3


def test_shard_map_is_counted_over_its_devices():
    mesh = make_mesh(data=2, fsdp=4)
    split = jax.shard_map(
        lambda x, w: x @ w,
        mesh=mesh,
        in_specs=(P(("data", "fsdp")), P()),
        out_specs=P(("data", "fsdp")),
    )
    assert flops.count(split, floats(16, 8), floats(8, 8)).total == 2 * 16 * 8 * 8
    # four times the same
    rows = jax.shard_map(
        lambda x, w: x @ w, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data")
    )
    assert flops.count(rows, floats(16, 8), floats(8, 8)).total == 4 * 2 * 16 * 8 * 8


@pytest.mark.parametrize(
    ("kernel", "options", "per_output"),
    [
        ((3, 3, 8, 16), {}, 9 * 8),
        ((3, 3, 8, 16), {"window_strides": (2, 2)}, 9 * 8),
        ((3, 3, 2, 16), {"feature_group_count": 4}, 9 * 2),
        ((3, 3, 8, 16), {"rhs_dilation": (2, 2), "padding": ((2, 2), (2, 2))}, 9 * 8),
    ],
)
def test_a_convolution_and_its_gradients_have_the_closed_form(kernel, options, per_output):
    conv = functools.partial(
        jax.lax.conv_general_dilated,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **{"window_strides": (1, 1), "padding": ((1, 1), (1, 1)), **options},
    )
    x, w = floats(3, 12, 12, 8), floats(*kernel)
    expected = 2 * jax.eval_shape(conv, x, w).size * per_output
    assert flops.count(conv, x, w).total == expected
    for argument in (0, 1):
        back = jax.grad(lambda x, w: conv(x, w).sum(), argument)
        # a transposed convolution has holes, which cost nothing
        assert flops.count(back, x, w).total == expected


def test_a_batch_of_products_and_einsum():
    counted = flops.count(
        lambda q, k: jnp.einsum("bqnd,bknd->bnqk", q, k), floats(2, 5, 3, 4), floats(2, 7, 3, 4)
    )
    assert counted.total == 2 * 2 * 3 * 5 * 7 * 4


def test_custom_derivatives_count_what_runs():
    @jax.custom_vjp
    def f(x, w):
        return x @ w

    f.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, ct: (ct @ saved[1].T, saved[0].T @ ct))
    one = 2 * 4 * 8 * 8
    assert flops.count(f, floats(4, 8), floats(8, 8)).total == one
    assert (
        flops.count(
            jax.grad(lambda x, w: (f(x, w) ** 2).sum(), (0, 1)), floats(4, 8), floats(8, 8)
        ).total
        == 3 * one
    )


@pytest.mark.parametrize(("estimate", "expected"), [(None, 4 * 2 * 8 * 8 * 8), (123, 123)])
def test_a_kernel_counts_its_estimate_or_its_body_at_each_point_of_the_grid(estimate, expected):
    from jax.experimental import pallas as pl

    def kernel(x, y, out):
        out[...] = x[...] @ y[...]

    cost = estimate and pl.CostEstimate(flops=estimate, transcendentals=0, bytes_accessed=0)
    call = pl.pallas_call(
        kernel,
        grid=(4,),
        in_specs=[pl.BlockSpec((8, 8), lambda i: (i, 0)), pl.BlockSpec((8, 8), lambda i: (0, 0))],
        out_specs=pl.BlockSpec((8, 8), lambda i: (i, 0)),
        out_shape=floats(32, 8),
        cost_estimate=cost,
    )
    assert flops.count(call, floats(32, 8), floats(8, 8)).total == expected


def test_the_cudnn_kernel_is_two_products_forward_and_five_back(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    q, k = (jax.ShapeDtypeStruct((2, length, 4, 64), jnp.bfloat16) for length in (64, 32))
    attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    one = 2 * 2 * 4 * 64 * 32 * 64
    assert flops.count(attend, q, k, k).total == 2 * one
    counted = flops.count(
        jax.grad(lambda q, k: attend(q, k, k).astype(jnp.float32).sum(), (0, 1)), q, k
    )
    # of the five back one makes the logits again
    assert (counted.total, counted.model) == (7 * one, 6 * one)


@pytest.mark.parametrize("remat", [False, True])
def test_useful_flops_do_not_depend_on_the_kernel(remat):
    mesh = make_mesh(devices=jax.devices()[:1])
    splash = attention.make_attend(
        "splash", "tpu", mesh, head_dim=64, dtype=jnp.float32, interpret=True
    )
    q, k = floats(2, 256, 2, 64), floats(2, 128, 2, 64)
    one = 2 * 2 * 2 * 256 * 128 * 64

    def counted(attend):
        attend = jax.checkpoint(attend) if remat else attend
        return flops.count(
            jax.grad(lambda q, k, v: (attend(q, k, v) ** 2).sum(), (0, 1, 2)), q, k, k
        )

    assert counted(attention.xla).model == 6 * one
    for ours in (counted(splash), counted(attention.by_heads)):
        # rows of the output times those of its gradient, which XLA does not multiply
        assert ours.model == pytest.approx(6 * one, rel=2e-3)
        assert ours.recomputed == (3 if remat else 1) * one
