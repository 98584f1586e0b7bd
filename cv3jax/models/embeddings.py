"""Sinusoidal embeddings of the time index, of image sizes and of the guidance weight.

The functions are pure. The frequencies are tables made on the host: a phase is up to 14,000 rad,
where the last bit of a float32 frequency changes the embedding by 8e-4, and backends differ in that
bit of their exp. The exponents are rounded to float32 as in the released code, which is closer to
what its networks were trained with than exact ones. Only the exp is correctly rounded.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def _frequencies(exponent: np.ndarray) -> np.ndarray:
    """Return exp of float32 exponents, correctly rounded to float32."""
    return np.exp(exponent.astype(np.float64)).astype(np.float32)


def timestep_embedding(t: jax.Array, dim: int) -> jax.Array:
    """Return cos, then sin, of t · 10000^(-k / (dim/2)), float32 [..., dim].

    t [...] is of any range and not scaled; dim is even. The time index is embedded with dim = model
    channels, each image size (in pixels) with dim = 256.
    """
    half = dim // 2
    frequency = _frequencies(
        np.float32(-math.log(10000.0)) * np.arange(half, dtype=np.float32) / np.float32(half)
    )
    angle = jnp.asarray(t, jnp.float32)[..., None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def size_embedding(sizes: jax.Array) -> jax.Array:
    """Return the vector condition, float32 [B, 1536].

    sizes [B, 6] in pixels: original (h, w), crop (top, left), target (h, w).
    """
    return timestep_embedding(sizes, 256).reshape(sizes.shape[0], -1)


def guidance_embedding(w: jax.Array, dim: int) -> jax.Array:
    """Return sin, then cos, of 1000 w · 10000^(-k / (dim/2 - 1)), float32 [B, dim].

    w [B] is the guidance weight; odd dims end in 0. This is the embedding of the distilled models.
    It differs from `timestep_embedding` in the order of sin and cos and in the denominator.
    """
    half = dim // 2
    frequency = _frequencies(
        np.float32(-math.log(10000.0) / (half - 1)) * np.arange(half, dtype=np.float32)
    )
    angle = 1000.0 * jnp.asarray(w, jnp.float32)[:, None] * frequency
    embedding = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))
