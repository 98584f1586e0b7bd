"""Blocks shared by the UNet and the autoencoder. Everything is NHWC; parameters are float32, compute is `dtype`.

Norms and the softmax run in float32 whatever `dtype` is. The names `conv_in, conv_out, q, k, v, out, ff_in, ff_out` are
load-bearing: the weight maps go by them, and `blocks` says that a module is scanned.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Constrain = Callable[[jax.Array], jax.Array]


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Softmax attention by XLA. q [B, S, N, D], k and v [B, L, N, D] → [B, S, N, D]; scale D^-1/2, softmax in float32."""
    return jax.nn.dot_product_attention(q, k, v)


def no_constraint(x: jax.Array) -> jax.Array:
    """The identity: the default of every `constrain` field, for models that run without a mesh."""
    return x


def group_norm(groups: int, epsilon: float, dtype: Any, name: str | None = None) -> nn.GroupNorm:
    """GroupNorm in two passes: E[x²] - E[x]² loses the small activations that the epsilon is there for."""
    return nn.GroupNorm(groups, epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def conv3(features: int, dtype: Any, name: str, *, stride: int = 1, zero: bool = False) -> nn.Conv:
    """3×3 convolution with torch's symmetric padding of one; `zero` starts it at zero (the end of a residual branch)."""
    init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    return nn.Conv(features, (3, 3), strides=(stride, stride), padding=1, dtype=dtype, kernel_init=init, name=name)


def upsample_nearest(x: jax.Array) -> jax.Array:
    """[B, H, W, C] → [B, 2H, 2W, C], each value repeated in a 2×2 square."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + emb))). One block for UNet (emb added) and autoencoder (no emb).

    x [B, H, W, C], emb [B, E] or None → [B, H, W, features]. `groups=0` leaves the norms out, which small autoencoders
    trained with an orthogonalising optimizer do better without.
    """

    features: int
    groups: int = 32
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, emb=None):
        def normed(h, name):
            return group_norm(self.groups, self.epsilon, self.dtype, name)(h) if self.groups else h

        h = conv3(self.features, self.dtype, "conv_in")(nn.silu(normed(x, "norm_in")))
        if emb is not None:
            h = h + nn.Dense(self.features, dtype=self.dtype, name="emb")(nn.silu(emb))[:, None, None, :]
        h = conv3(self.features, self.dtype, "conv_out", zero=True)(nn.silu(normed(h, "norm_out")))
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1, 1), dtype=self.dtype, name="skip")(x)
        return x + h


class Attention(nn.Module):
    """Multi-head attention of x [B, S, C] over context [B, L, C'] → [B, S, C]; q, k, v without bias, `out` with."""

    head_dim: int
    dtype: Any = jnp.float32
    attend: Attend = attend

    @nn.compact
    def __call__(self, x, context):
        channels = x.shape[-1]
        heads = channels // self.head_dim

        def project(name, value):
            value = nn.Dense(channels, use_bias=False, dtype=self.dtype, name=name)(value)
            return value.reshape(*value.shape[:2], heads, self.head_dim)

        y = self.attend(project("q", x), project("k", context), project("v", context))
        return nn.Dense(channels, dtype=self.dtype, name="out")(y.reshape(x.shape))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, GEGLU feed-forward; each pre-normed and residual.

    x [B, S, C], text [B, L, C'] → [B, S, C]. The GELU is the exact one (erf), as in the released model.
    """

    head_dim: int
    dtype: Any = jnp.float32
    attend: Attend = attend
    constrain: Constrain = no_constraint

    @nn.compact
    def __call__(self, x, text):
        def normed(name):
            return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, use_fast_variance=False, name=name)(x)

        attention = {"head_dim": self.head_dim, "dtype": self.dtype, "attend": self.attend}
        h = normed("norm_self")
        x = x + Attention(**attention, name="self_attention")(h, h)
        x = x + Attention(**attention, name="cross_attention")(normed("norm_cross"), text)
        value, gate = jnp.split(nn.Dense(8 * x.shape[-1], dtype=self.dtype, name="ff_in")(normed("norm_ff")), 2, axis=-1)
        x = x + nn.Dense(x.shape[-1], dtype=self.dtype, name="ff_out")(value * nn.gelu(gate, approximate=False))
        return self.constrain(x)


class SpatialTransformer(nn.Module):
    """`depth` transformer blocks over the H·W positions (row-major) of x [B, H, W, C], with the text [B, L, C'] → same shape.

    The blocks are one scanned block with stacked parameters [depth, ...]: the unrolled full-size step takes twice as long
    to compile.
    """

    depth: int
    head_dim: int
    groups: int = 32
    remat: bool = False
    dtype: Any = jnp.float32
    attend: Attend = attend
    constrain: Constrain = no_constraint

    @nn.compact
    def __call__(self, x, text):
        batch, height, width, channels = x.shape
        h = group_norm(self.groups, 1e-6, self.dtype, "norm")(x).reshape(batch, height * width, channels)
        h = nn.Dense(channels, dtype=self.dtype, name="proj_in")(h)
        block = nn.remat(TransformerBlock, prevent_cse=False) if self.remat else TransformerBlock
        stack = nn.scan(
            lambda block, h, text: (block(h, text), None),
            variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast, length=self.depth,
        )  # fmt: skip
        h, _ = stack(block(self.head_dim, self.dtype, self.attend, self.constrain, name="blocks"), h, text)
        h = nn.Dense(channels, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="proj_out")(h)
        return x + h.reshape(x.shape)
