"""Kernels against XLA's attention, forward and gradient: Pallas's interpreted, ours for CPUs;
cuDNN's on a GPU, elsewhere to its call.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax.distributed.mesh import BATCH, make_mesh
from cv3jax.kernels import attention, attention_cpu
from cv3jax.kernels.attention import make_attend
from cv3jax.models.layers import SpatialTransformer

pytestmark = pytest.mark.usefixtures("quick_compiles")


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def splash(mesh, **options):
    return make_attend(
        "splash",
        "tpu",
        mesh,
        **{"head_dim": 64, "dtype": jnp.float32, "interpret": True, **options},
    )


def heads(mesh, dtype="float32"):
    return make_attend("heads", "cpu", mesh, head_dim=16, dtype=dtype)


def with_gradients(attend):
    """(q, k, v, cotangent) → (attention, gradients of q, k, v)."""

    def run(q, k, v, g):
        out, back = jax.vjp(attend, q, k, v)
        return out, *back(g)

    return run


def draw(batch, queries, keys, heads, dim=64, dtype=jnp.float32):
    q, g, k, v = (
        jax.random.normal(jax.random.key(i), (batch, queries if i < 2 else keys, heads, dim), dtype)
        for i in range(4)
    )
    return q, k, v, g


def assert_close(ours, theirs, within):
    """Each within a share of its largest value."""
    for name, a, b in zip(("out", "q", "k", "v"), ours, theirs, strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.abs(a - b).max() <= within * np.abs(b).max(), name


def primitives(jaxpr) -> list:
    """The equations of a jaxpr and of those inside it."""
    found = []
    for equation in jaxpr.eqns:
        found.append(equation)
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                found += primitives(inner) if hasattr(inner, "eqns") else []
    return found


def calls(attend, *shape, **options) -> list:
    """The Pallas calls in attention and gradients of such inputs."""
    jaxpr = jax.make_jaxpr(with_gradients(attend))(*jax.eval_shape(lambda: draw(*shape, **options)))
    return [
        equation for equation in primitives(jaxpr.jaxpr) if equation.primitive.name == "pallas_call"
    ]


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


def test_auto_takes_the_kernel_where_it_pays_and_its_limits_hold():
    mesh, bf16 = one_device(), {"head_dim": 64, "dtype": jnp.bfloat16}
    tpu = make_attend("auto", "tpu", mesh, **bf16)
    for shape, kernels in (
        ((4, 1024, 1024, 20), 2),
        ((1, 4096, 225, 10), 2),
        ((8, 256, 256, 10), 0),
    ):
        assert len(calls(tpu, *shape, dtype=jnp.bfloat16)) == kernels
    spread = make_attend("auto", "tpu", make_mesh(), **bf16)
    assert not calls(spread, 8, 1024, 225, 20, dtype=jnp.bfloat16)  # 18 MB a device
    assert make_attend("auto", "tpu", mesh, head_dim=60, dtype=jnp.bfloat16) is attention.xla
    assert make_attend("auto", "gpu", mesh, head_dim=64, dtype=jnp.float32) is attention.xla
    assert make_attend("auto", "gpu", mesh, **bf16) is not attention.xla


@pytest.mark.parametrize(
    ("kind", "platform", "head_dim", "dtype", "message"),
    [
        (
            "flash",
            "cpu",
            64,
            "float32",
            "attention must be one of auto, xla, cudnn, splash, heads, not 'flash'",
        ),
        (
            "cudnn",
            "cpu",
            64,
            "bfloat16",
            "attention 'cudnn' does not run on cpu devices; take auto or xla",
        ),
        ("splash", "gpu", 64, "bfloat16", "attention 'splash' does not run on gpu devices"),
        ("cudnn", "gpu", 64, "float32", "attention 'cudnn' takes bfloat16 or float16, not float32"),
        (
            "cudnn",
            "gpu",
            192,
            "bfloat16",
            "takes a head_dim that is a multiple of 8 up to 128, not 192",
        ),
        (
            "splash",
            "tpu",
            20,
            "bfloat16",
            "takes a head_dim that is a multiple of 8 up to 128, not 20",
        ),
        ("splash", "tpu", 64, "float16", "takes bfloat16 or float32, not float16"),
    ],
)
def test_what_does_not_run_is_refused(kind, platform, head_dim, dtype, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_attend(kind, platform, one_device(), head_dim=head_dim, dtype=dtype)


def program(attend, mesh, platform, inside) -> str:
    """Attention and gradients of bfloat16 inputs split over `mesh`, as they go to the compiler of
    `platform`.
    """
    run = with_gradients(attend)
    if inside:
        run = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=P(BATCH),
            out_specs=P(BATCH),
            axis_names=set(BATCH),
            check_vma=False,
        )
    rows = NamedSharding(mesh, P(BATCH))
    q, k = (
        jax.ShapeDtypeStruct((8, length, 4, 64), jnp.bfloat16, sharding=rows)
        for length in (256, 225)
    )
    return jax.jit(run).trace(q, k, k, q).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("inside", [False, True], ids=["jit", "train step"])
def test_programs_for_other_hardware_hold_the_kernels(inside, monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    if cudnn.cuda_versions is None:  # without CUDA installed the call can be written, not run
        monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    mesh, bf16 = make_mesh(data=2, fsdp=2, tensor=2), {"head_dim": 64, "dtype": jnp.bfloat16}
    gpu = program(make_attend("cudnn", "gpu", mesh, **bf16), mesh, "cuda", inside)
    assert re.findall(r"custom_call @([\w$]+)", gpu) == [
        "__cudnn$fmhaSoftmax",
        "__cudnn$fmhaSoftmaxBackward",
    ]
    # a device's images, its heads, and keys padded with a mask that goes by their true number
    assert '"PADDING"' in gpu.replace("\\22", '"')
    assert "dense<225> : tensor<i32>" in gpu
    assert "tensor<2x256x2x64xbf16>" in gpu
    tpu = program(make_attend("splash", "tpu", mesh, **bf16), mesh, "tpu", inside)
    assert len(re.findall(r"custom_call @tpu_custom_call", tpu)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "share"),
    [
        ((4, 1024, 1024, 20), 0.25),
        ((4, 4096, 4096, 10), 0.1),
        ((4, 1024, 225, 20), 0.7),
    ],
    ids=str,
)
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1"])
def test_splash_compiles_for_a_tpu_and_saves_memory(topology, shape, share, monkeypatch):
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    mesh = make_mesh(
        devices=list(topologies.get_topology_desc(topology, platform="tpu").devices[:1])
    )
    inputs = jax.eval_shape(lambda: draw(*shape, dtype=jnp.bfloat16))
    inputs = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, P())) for x in inputs
    ]

    def temporaries(kind):
        attend = make_attend(kind, "tpu", mesh, head_dim=64, dtype=jnp.bfloat16)
        return (
            jax.jit(with_gradients(attend))
            .lower(*inputs)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    assert temporaries("splash") < share * temporaries("xla")


@pytest.mark.gpu
@pytest.mark.parametrize(
    "shape", [(2, 1024, 225, 10), (2, 1024, 1024, 20), (1, 256, 256, 10), (2, 64, 24, 2)], ids=str
)
def test_cudnn_is_xla_s_attention_and_gradient(shape):
    inputs = draw(*shape, dtype=jnp.bfloat16)
    attend = make_attend("cudnn", "gpu", make_mesh(), head_dim=64, dtype=jnp.bfloat16)
    exact = jax.jit(with_gradients(attention.xla))(*(x.astype(jnp.float32) for x in inputs))
    assert_close(jax.jit(with_gradients(attend))(*inputs), exact, 0.02)


@pytest.mark.gpu
def test_cudnn_does_not_see_the_padding(monkeypatch):
    inputs = draw(1, 256, 225, 2, dtype=jnp.bfloat16)
    outcomes = []
    for fill in (0.0, 50.0):

        def filled(x, fill=fill):
            return jnp.pad(
                x, ((0, 0), (0, -x.shape[1] % 128), (0, 0), (0, 0)), constant_values=fill
            )

        monkeypatch.setattr(attention, "padded", filled)
        attend = make_attend("cudnn", "gpu", make_mesh(), head_dim=64, dtype=jnp.bfloat16)
        outcomes.append(jax.jit(with_gradients(attend))(*inputs))
    for a, b in zip(*outcomes, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), atol=0.02)
