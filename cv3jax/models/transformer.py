"""The transformer of the UNet: self-attention, cross-attention to the text, feed-forward.

The text's keys and values can be computed before, once for all steps; see `project_kv`. Do not
rename `q, k, v, out, ff_in, ff_out`: the weight maps use these names. `blocks` is the name of a
scanned module.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from cv3jax.models.layers import (
    BLOCK_INPUT,
    KV,
    Attend,
    Constrain,
    Gather,
    attend,
    block_of,
    group_norm,
    no_constraint,
)


def interleave(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the rows of a and b [B, ...] in turns: a₀, b₀, a₁, b₁, ... [2B, ...].

    On a mesh that shards the rows, each device already has all of its rows of the result. Of a
    concatenation it would have other rows.
    """
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def take_turns(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return (a, b), each [B, ...], of `interleave(a, b)`."""
    pairs = x.reshape(-1, 2, *x.shape[1:])
    return pairs[:, 0], pairs[:, 1]


class Attention(nn.Module):
    """Multi-head attention of x [B, S, C] over context [B, L, C'] → [B, S, C].

    q, k and v have no bias, `out` has one. In place of context there may be its keys and values,
    each [B, L, N, D] (see `project_kv`).
    """

    head_dim: int
    dtype: Any = jnp.float32
    attend: Attend = attend

    @nn.compact
    def __call__(self, x, context):
        """Return the attention's output [B, S, C]."""
        channels = x.shape[-1]
        heads = channels // self.head_dim

        def project(name, value):
            value = nn.Dense(channels, use_bias=False, dtype=self.dtype, name=name)(value)
            return value.reshape(*value.shape[:2], heads, self.head_dim)

        given = isinstance(context, tuple)
        k, v = context if given else (project("k", context), project("v", context))
        y = self.attend(project("q", x), k, v)
        return nn.Dense(channels, dtype=self.dtype, name="out")(y.reshape(x.shape))


def project_kv(context: jax.Array, kernels: KV, head_dim: int, dtype: Any) -> KV:
    """Return the keys and values [B, L, N, D] that an `Attention` has of context [B, L, C'].

    kernels: those of its k and v, each [C', N · D]. The arithmetic is that of the module.
    """

    def project(kernel):
        value = context.astype(dtype) @ kernel.astype(dtype)
        return value.reshape(*value.shape[:2], -1, head_dim)

    return project(kernels[0]), project(kernels[1])


class GatedDense(nn.Module):
    """(value, gate) of x [B, S, C], two of [B, S, features], by the halves of one matrix.

    The matrix [C, 2 features] is halved, not the product, so that a mesh can shard the features of
    both alike.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Return (value, gate)."""
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (x.shape[-1], 2 * self.features), jnp.float32
        )
        bias = self.param("bias", nn.initializers.zeros, (2 * self.features,), jnp.float32)
        x, kernel, bias = (value.astype(self.dtype) for value in (x, kernel, bias))
        return tuple(
            x @ kernel + bias
            for kernel, bias in zip(jnp.split(kernel, 2, axis=1), jnp.split(bias, 2), strict=True)
        )


# the backward pass keeps x, not its float32 intermediates
@functools.partial(jax.checkpoint, prevent_cse=False)
def gelu(x: jax.Array) -> jax.Array:
    """Return x Φ(x) by erf, computed in float32 whatever x is.

    PyTorch computes it so, and on CPUs erf takes a third of the time of erfc.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text and GEGLU feed-forward, pre-normed and residual.

    x [B, S, C], text [B, L, C'] → [B, S, C]. The GELU is the exact one (erf), as in the released
    model.

    In place of the text there may be its keys and values, each [B, L, N, D]. If they have half as
    many rows as x, they belong to its odd rows, and the even rows have a text of zeros. Keys and
    values of zeros are zeros, and so is their average: of the attention, the even rows get the
    output's bias, and nothing is computed for them.
    """

    head_dim: int
    dtype: Any = jnp.float32
    attend: Attend = attend
    constrain: Constrain = no_constraint

    @nn.compact
    def __call__(self, x, text):
        """Return the block's output [B, S, C]."""

        def normed(x, name):
            return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, use_fast_variance=False, name=name)(
                x
            )

        x = checkpoint_name(x, BLOCK_INPUT)
        attention = {"head_dim": self.head_dim, "dtype": self.dtype, "attend": self.attend}
        h = normed(x, "norm_self")
        x = x + Attention(**attention, name="self_attention")(h, h)
        cross = Attention(**attention, name="cross_attention")
        if isinstance(text, tuple) and 2 * len(text[0]) == len(x):
            without, x = take_turns(x)
            x = x + cross(normed(x, "norm_cross"), text)
            bias = cross.variables["params"]["out"]["bias"]
            x = interleave(without + bias.astype(self.dtype), x)
        else:
            x = x + cross(normed(x, "norm_cross"), text)
        h = normed(x, "norm_ff")
        value, gate = GatedDense(4 * x.shape[-1], dtype=self.dtype, name="ff_in")(h)
        x = x + nn.Dense(x.shape[-1], dtype=self.dtype, name="ff_out")(value * gelu(gate))
        return self.constrain(x)


class SpatialTransformer(nn.Module):
    """`depth` transformer blocks over the H·W positions (row-major) of x [B, H, W, C].

    text [B, L, C'] → same shape as x. The blocks are one scanned block with stacked parameters
    [depth, ...], because the unrolled full-size step takes twice as long to compile.

    In place of the text there may be its keys and values of all blocks, each [depth, B, L, N, D].
    """

    depth: int
    head_dim: int
    groups: int = 32
    remat: str = "none"
    dtype: Any = jnp.float32
    attend: Attend = attend
    constrain: Constrain = no_constraint
    gather: Gather | None = None

    @nn.compact
    def __call__(self, x, text):
        """Return the output, of the shape of x."""
        batch, height, width, channels = x.shape
        h = group_norm(self.groups, 1e-6, self.dtype, "norm")(x).reshape(
            batch, height * width, channels
        )
        h = nn.Dense(channels, dtype=self.dtype, name="proj_in")(h)
        block = block_of(
            TransformerBlock, (*self.path, "blocks"), self.gather, self.remat, scanned=True
        )
        stack = nn.scan(
            lambda block, h, text: (block(h, text), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=0 if isinstance(text, tuple) else nn.broadcast,
            length=self.depth,
            check_constancy_invariants=self.is_initializing(),  # traces every block twice
        )
        h, _ = stack(
            block(self.head_dim, self.dtype, self.attend, self.constrain, name="blocks"), h, text
        )
        h = nn.Dense(
            channels, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="proj_out"
        )(h)
        return x + h.reshape(x.shape)
