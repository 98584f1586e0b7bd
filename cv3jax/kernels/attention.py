"""Attention by name: the models' `attend` for the hardware of a mesh, which models do not know.

    xla     everywhere; the logits [B, N, S, L] go through memory unless the chip's own holds them
    cudnn   NVIDIA GPUs: cuDNN's flash attention, forward and backward
    splash  TPUs: JAX's Pallas kernels, forward and backward; the logits never leave the chip
    heads   CPUs: a few heads at a time (attention_cpu.py)
    auto    the backend's kernel where its limits hold and it is faster; otherwise xla

A kernel is faster where the logits are large enough. The compiler cannot split a kernel over
devices. So the kernel is called on each device's part, under shard_map: images are sharded over
data and fsdp, heads over tensor, queries over context; keys and values are not sharded.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as kernels
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cv3jax.distributed.mesh import BATCH
from cv3jax.kernels import KINDS
from cv3jax.kernels.attention_cpu import by_heads
from cv3jax.models.layers import Attend
from cv3jax.models.layers import attend as xla

# platform → its own kernel besides xla
KERNELS = {"tpu": "splash", "gpu": "cudnn", "cuda": "cudnn", "cpu": "heads"}
# Least bytes of a device's float32 logits for which `auto` takes the kernel. A TPU keeps fewer on
# the chip anyway (docs/decisions/models.md).
PAYS = {"splash": 32 * 2**20, "cudnn": 0, "heads": 0}
TILE = 128  # kernels take sequences in multiples of it: the lanes of a TPU's vector unit
# Splash's blocks: queries, keys in on-chip memory, keys at a time. They are large, because a step
# of the grid costs about a third of a microsecond whatever it does. 1024 × 512 float32 logits are 2
# MiB, of which the compiler holds a few in a kernel's 16 MiB. In the backward pass, each block of
# keys leaves a gradient of all queries to be summed: blocks of 2048 leave two of them for 4096
# keys, not four.
FORWARD = (1024, 1024, 512)
BACKWARD = (1024, 2048, 512)


def make_attend(
    kind: str, platform: str, mesh: Mesh, *, head_dim: int, dtype: Any, interpret: bool = False
) -> Attend:
    """Return attend(q [B, S, N, D], k, v [B, L, N, D]) → [B, S, N, D] of their dtype.

    The scale is D^-1/2, and the softmax is in float32. `platform` is JAX's name of what will run
    it. Call it under a plain jit, or inside a shard_map that has made some axes of `mesh` manual,
    as the train step does. `interpret` runs splash's kernels on any backend, slowly: for tests.

    Raises:
        ValueError: there is no such kind, or the platform, `head_dim` or `dtype` does not allow it.
    """
    if kind not in KINDS:
        raise ValueError(f"attention must be one of {', '.join(KINDS)}, not {kind!r}")
    own = KERNELS.get(platform, "xla")
    if kind not in ("auto", "xla", own):
        raise ValueError(f"attention {kind!r} does not run on {platform} devices; give auto or xla")
    problem = limit(own if kind == "auto" else kind, head_dim, dtype)
    if problem and kind != "auto":
        raise ValueError(f"attention {kind!r} needs {problem}; give auto or xla")
    if kind == "xla" or own == "xla" or problem:
        return xla
    kernel = {
        "splash": functools.partial(splash, interpret=interpret),
        "cudnn": cudnn,
        "heads": by_heads,
    }[own]
    least = PAYS[own] if kind == "auto" else 0
    return lambda q, k, v: split(kernel, mesh, q, k, v, least)


def limit(kernel: str, head_dim: int, dtype: Any) -> str | None:
    """Return what the kernel needs where such heads do not fit it, or None."""
    dtype = jnp.dtype(dtype)
    dtypes = {"cudnn": ("bfloat16", "float16"), "splash": ("bfloat16", "float32")}
    if kernel in dtypes and dtype.name not in dtypes[kernel]:
        return f"{' or '.join(dtypes[kernel])}, not {dtype.name}"
    if kernel in dtypes and (head_dim % 8 or head_dim > 128):
        return f"a head_dim that is a multiple of 8 up to 128, not {head_dim}"
    return None


def split(
    kernel: Attend, mesh: Mesh, q: jax.Array, k: jax.Array, v: jax.Array, least: int
) -> jax.Array:
    """Call `kernel` on each device's images, heads and queries.

    Where a device's logits take less than `least` bytes, XLA's attention is called instead. What an
    axis of the mesh does not divide is not sharded: the result is correct, but not faster than on
    one device.
    """
    around = jax.sharding.get_abstract_mesh()  # empty under a plain jit
    free = [axis for axis in mesh.axis_names if axis not in around.manual_axes]

    def over(size: int, *axes: str) -> tuple[str, ...]:
        axes = tuple(axis for axis in axes if axis in free)
        return axes if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else ()

    batch, length, heads, _ = q.shape
    images, queries, heads_over = (
        over(batch, *BATCH),
        over(length, "context"),
        over(heads, "tensor"),
    )
    ways = math.prod(mesh.shape[axis] for axis in (*images, *queries, *heads_over))
    if batch * heads * length * k.shape[1] * 4 < least * ways:
        return xla(q, k, v)
    # on one device there is nothing to split, and results would carry the mesh in their type
    if not free or mesh.size == 1:
        return kernel(q, k, v)
    ours, theirs = (
        P(images or None, queries or None, heads_over or None),
        P(images or None, None, heads_over or None),
    )
    return jax.shard_map(
        kernel,
        mesh=mesh if around.empty else around,
        in_specs=(ours, theirs, theirs),
        out_specs=ours,
        axis_names=set(free),
        check_vma=False,  # Pallas calls do not say over which axes they vary
    )(q, k, v)


def padded(x: jax.Array) -> jax.Array:
    """Pad [B, S, N, D] with zeros after its S positions, to a multiple of `TILE`."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % TILE), (0, 0), (0, 0)))


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Return cuDNN's flash attention.

    Keys are padded to a multiple of `TILE`, and their true number hides the padding.
    """
    length = k.shape[1]
    if length % TILE == 0:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    lengths = jnp.full(k.shape[0], length, jnp.int32)
    return jax.nn.dot_product_attention(
        q, padded(k), padded(v), key_value_seq_lengths=lengths, implementation="cudnn"
    )


def splash(q: jax.Array, k: jax.Array, v: jax.Array, *, interpret: bool = False) -> jax.Array:
    """Return splash attention.

    Sequences are padded to a multiple of `TILE`; padded keys have another segment than every query.
    """
    queries, keys, dim = q.shape[1], k.shape[1], q.shape[-1]
    q = padded((q.astype(jnp.float32) * dim**-0.5).astype(q.dtype))  # the kernel has no scale
    k, v = padded(k), padded(v)
    attend = splash_kernel(q.shape[2], q.shape[1], k.shape[1], interpret)
    segments = None
    if k.shape[1] != keys:
        real = jnp.arange(k.shape[1]) < keys
        segments = kernels.SegmentIds(jnp.ones(q.shape[1], jnp.int32), real.astype(jnp.int32))
    out = jax.vmap(lambda q, k, v: attend(q, k, v, segment_ids=segments))(
        *(x.swapaxes(1, 2) for x in (q, k, v))
    )
    return out.swapaxes(1, 2)[:, :queries]


def splash_kernel(heads: int, queries: int, keys: int, interpret: bool):
    """Return the kernel for so many heads and positions, without a mask."""

    def blocks(most_queries: int, most_keys: int, most_compute: int) -> tuple[int, int, int]:
        block = largest(keys, most_keys)
        return largest(queries, most_queries), block, largest(block, most_compute)

    forward, backward = blocks(*FORWARD), blocks(*BACKWARD)
    # the fused backward kernel computes the logits once for all three gradients, not twice: 5
    # matrix products, not 7
    sizes = kernels.BlockSizes(*forward, *backward, use_fused_bwd_kernel=True)
    mask = kernels.MultiHeadMask([kernels.FullMask((queries, keys))] * heads)
    return kernels.make_splash_mha(
        mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )


def largest(size: int, most: int) -> int:
    """Return the largest multiple of `TILE` up to `most` that divides `size`, itself a multiple."""
    return max(block for block in range(TILE, min(size, most) + 1, TILE) if size % block == 0)
