"""The T5 v1.1 encoder: gated tanh-GELU, RMSNorm, no 1/√d scaling, one relative bias for all."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.models.layers import Gather, block_of


def relative_bucket(distance: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
    """Return the bucket of each signed key - query distance, int32.

    Half of the buckets are for each sign; distances up to a quarter of them are exact, the rest
    logarithmic. It runs on the host: distances of 16, 32 and 64 are on the edges of buckets, where
    a backend's logarithm may fall on either side.
    """
    half = buckets // 2
    exact = half // 2
    magnitude = np.abs(distance)
    large = exact + (
        np.log(np.maximum(magnitude, 1) / exact) / math.log(max_distance / exact) * (half - exact)
    ).astype(np.int32)
    return (
        np.where(distance > 0, half, 0)
        + np.where(magnitude < exact, magnitude, np.minimum(large, half - 1))
    ).astype(np.int32)


class RMSNorm(nn.Module):
    """x / rms(x) · scale, in float32, returned as `dtype`."""

    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Return the normalised x."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return (x * scale).astype(self.dtype)


class Layer(nn.Module):
    """Pre-normed self-attention with the shared bias, then the gated feed-forward; both residual.

    x [B, L, C], bias [B|1, N, L, L].
    """

    heads: int
    head_dim: int
    ff: int
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x, bias):
        """Return the layer's output [B, L, C]."""

        def dense(features, name):
            scale = 1.0 / self.head_dim if name == "q" else 1.0
            init = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
            return nn.Dense(features, use_bias=False, dtype=self.dtype, kernel_init=init, name=name)

        b, length, channels = x.shape
        h = RMSNorm(self.epsilon, self.dtype, name="norm_attention")(x)
        q, k, v = (
            dense(self.heads * self.head_dim, name)(h).reshape(b, length, self.heads, self.head_dim)
            for name in "qkv"
        )
        # T5 folds 1/√d into the weights of q; logits, bias and softmax stay in float32
        logits = jnp.einsum("bqnd,bknd->bnqk", q, k, preferred_element_type=jnp.float32) + bias
        h = jnp.einsum("bnqk,bknd->bqnd", jax.nn.softmax(logits, axis=-1).astype(self.dtype), v)
        x = x + dense(channels, "out")(h.reshape(b, length, -1))
        h = RMSNorm(self.epsilon, self.dtype, name="norm_ff")(x)
        h = nn.gelu(dense(self.ff, "ff_gate")(h), approximate=True) * dense(self.ff, "ff_in")(h)
        return x + dense(channels, "ff_out")(h)


class T5Encoder(nn.Module):
    """Token ids → features. Defaults are T5-XXL's (4.8 B parameters).

    Layers are scanned: parameters are stacked [layers, ...].
    """

    vocab: int = 32128
    channels: int = 4096
    layers: int = 24
    heads: int = 64
    head_dim: int = 64
    ff: int = 10240
    buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    # gathers a layer's parameters, where each device holds a shard of them
    gather: Gather | None = None

    @staticmethod
    def gathers(path: tuple[str, ...]) -> bool:
        """Return whether the parameter at `path` is a layer's; layers call `gather` themselves."""
        return "layers" in path

    @nn.compact
    def __call__(self, tokens, mask=None):
        """Return text features, float32 [B, L, channels].

        tokens int [B, L]. mask bool [B, L], True where attended; with None, padding attends and is
        attended to, as in the release.
        """
        length = tokens.shape[1]
        embed = nn.Embed(
            self.vocab,
            self.channels,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(1.0),
            name="embed",
        )
        x = embed(tokens)
        position = jnp.arange(length)
        by_distance = jnp.asarray(
            relative_bucket(np.arange(1 - length, length), self.buckets, self.max_distance)
        )
        bucket = by_distance[position[None, :] - position[:, None] + length - 1]
        # a wide range: the heads of an encoder that is used frozen at its random start should look
        # at different distances
        table = self.param(
            "relative_bias", nn.initializers.normal(2.0), (self.buckets, self.heads), jnp.float32
        )
        bias = table[bucket].transpose(2, 0, 1)[None]
        if mask is not None:
            bias = bias + jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min)[:, None, None, :]
        stack = nn.scan(
            lambda layer, x, bias: (layer(x, bias), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.layers,
            check_constancy_invariants=self.is_initializing(),  # traces every block twice
        )
        layer = block_of(Layer, ("layers",), self.gather, "none", scanned=True)
        x, _ = stack(
            layer(self.heads, self.head_dim, self.ff, self.epsilon, self.dtype, name="layers"),
            x,
            bias,
        )
        return RMSNorm(self.epsilon, jnp.float32, name="norm_out")(x)
