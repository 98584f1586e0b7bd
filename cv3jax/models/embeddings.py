"""Sinusoidal embeddings of the time index, of image sizes and of the guidance weight.

Pure functions of jax.

The frequencies are tables made on the host: a phase is up to 14,000 rad, where the last bit of a
float32 frequency is worth 8e-4 in the embedding, and backends differ in that bit of their exp. The
exponents are rounded to float32 as the released code rounds them, which is closer to what its
networks know than exact ones; only the exp is correctly rounded.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def _frequencies(exponent: np.ndarray) -> np.ndarray:
    """exp of float32 exponents, correctly rounded to float32."""
    return np.exp(exponent.astype(np.float64)).astype(np.float32)


def timestep_embedding(t: jax.Array, dim: int) -> jax.Array:
    """cos then sin of t · 10000^(-k / (dim/2)), in float32. t [...] (any range, not scaled) → [...,
    dim]; dim is even.

    The time index goes through it with dim = model channels, each image size (in pixels) with dim =
    256.
    """
    half = dim // 2
    frequency = _frequencies(
        np.float32(-math.log(10000.0)) * np.arange(half, dtype=np.float32) / np.float32(half)
    )
    angle = jnp.asarray(t, jnp.float32)[..., None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def size_embedding(sizes: jax.Array) -> jax.Array:
    """The vector condition. sizes [B, 6] in pixels: original (h, w), crop (top, left), target (h,
    w) → float32 [B, 1536].
    """
    return timestep_embedding(sizes, 256).reshape(sizes.shape[0], -1)


def guidance_embedding(w: jax.Array, dim: int) -> jax.Array:
    """sin then cos of 1000 w · 10000^(-k / (dim/2 - 1)), in float32. w [B], the guidance weight →
    [B, dim]; odd dims end in 0.

    The distilled models' embedding: opposite to `timestep_embedding` in the order of sin and cos
    and in its denominator.
    """
    half = dim // 2
    frequency = _frequencies(
        np.float32(-math.log(10000.0) / (half - 1)) * np.arange(half, dtype=np.float32)
    )
    angle = 1000.0 * jnp.asarray(w, jnp.float32)[:, None] * frequency
    embedding = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))
