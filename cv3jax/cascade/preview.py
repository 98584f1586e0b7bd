"""A cheap preview of latents: one RGB pixel for each latent position, a linear function of it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 16  # latent positions per side of the pictures that `fit` makes
COUNT = 16  # of these pictures


def colours(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Return smooth pictures of random colours, float32 [count, side, side, 3] in [-1, 1]."""
    rng = np.random.default_rng(seed)
    coarse = jnp.asarray(rng.uniform(-1.0, 1.0, (count, 4, 4, 3)), jnp.float32)
    return np.asarray(jax.image.resize(coarse, (count, side, side, 3), "linear"))


def fit(encode: Callable[[np.ndarray], np.ndarray], factor: int) -> np.ndarray:
    """Return `fit_to` of smooth colours, which needs no pictures.

    encode: (pixels [B, H, W, 3] in [-1, 1]) → scaled latents [B, h, w, z]. factor: pixels per
    latent position, per side.
    """
    pixels = colours(COUNT, SIDE * factor)
    return fit_to(pixels, np.asarray(encode(pixels)))


def fit_to(pixels: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """Return the matrix float32 [z + 1, 3] that gives pixels in [-1, 1] of latents and a constant.

    It is fitted by least squares to pictures, pixels [B, H, W, 3] in [-1, 1], and their scaled
    latents [B, h, w, z].
    """
    latents = np.asarray(latents, np.float64)
    count, height, width, channels = latents.shape
    factors = pixels.shape[1] // height, pixels.shape[2] // width
    blocks = pixels.reshape(count, height, factors[0], width, factors[1], 3).mean((2, 4))
    known = latents.reshape(-1, channels)
    known = np.concatenate([known, np.ones((len(known), 1))], 1)
    return np.linalg.lstsq(known, blocks.reshape(-1, 3), rcond=None)[0].astype(np.float32)


def described(pixels: np.ndarray, latents: np.ndarray) -> list[list[float]] | None:
    """Return `fit_to` as cascade.json has it, or None of latents that are not finite."""
    if not np.isfinite(latents).all():
        return None
    return [[float(f"{value:.6g}") for value in row] for row in fit_to(pixels, latents)]


def shown(latents: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the preview uint8 [B, h, w, 3] of scaled latents [B, h, w, z]."""
    pixels = np.asarray(latents, np.float32) @ matrix[:-1] + matrix[-1]
    return (np.clip((pixels + 1.0) / 2.0, 0.0, 1.0) * 255.0).astype(np.uint8)
