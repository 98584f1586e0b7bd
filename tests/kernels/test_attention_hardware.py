"""Test which attention kernel is used on which hardware.

The tests check the choice of `auto`, refusals, programs compiled ahead of time for other hardware,
and cuDNN's kernel on a GPU.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attentions import assert_close, calls, draw, one_device, with_gradients
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax.distributed.mesh import BATCH, make_mesh
from cv3jax.kernels import attention
from cv3jax.kernels.attention import make_attend


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
            "attention 'cudnn' does not run on cpu devices; give auto or xla",
        ),
        ("splash", "gpu", 64, "bfloat16", "attention 'splash' does not run on gpu devices"),
        ("cudnn", "gpu", 64, "float32", "attention 'cudnn' needs bfloat16 or float16, not float32"),
        (
            "cudnn",
            "gpu",
            192,
            "bfloat16",
            "needs a head_dim that is a multiple of 8 up to 128, not 192",
        ),
        (
            "splash",
            "tpu",
            20,
            "bfloat16",
            "needs a head_dim that is a multiple of 8 up to 128, not 20",
        ),
        ("splash", "tpu", 64, "float16", "needs bfloat16 or float32, not float16"),
    ],
)
def test_what_does_not_run_is_refused(kind, platform, head_dim, dtype, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_attend(kind, platform, one_device(), head_dim=head_dim, dtype=dtype)


def program(attend, mesh, platform, inside) -> str:
    """Return the program of attention and gradients for the compiler of `platform`.

    Its inputs are bfloat16 and split over `mesh`.
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
