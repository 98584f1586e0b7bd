"""Random arrays, and parameters without zeros."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def noised(params: Any, seed: int = 0) -> Any:
    """Of a fresh UNet, biases and whole branches are zeros: here they are not."""
    leaves, tree = jax.tree.flatten(params)
    return tree.unflatten([x + 0.1 * normal(seed + i, *x.shape) for i, x in enumerate(leaves)])
