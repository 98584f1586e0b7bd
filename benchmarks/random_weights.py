"""Fill parameters with random values, the same in every process, for benchmarks at full size.

They are as large as trained ones, and none is zero, so that every layer affects the output. Drawing
3 B numbers takes a minute of a core. So the values are slices of one pool of random numbers, each
from a place of its own. Time depends on weights being random, not on their being independent.
"""

import concurrent.futures
import functools
import math
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.cascade.parts import computed_shapes
from cv3jax.checkpoints.description import CascadeDescription

POOL = 2**24 - 3  # a prime: rows of matrices are at different places of the pool


@functools.cache
def _pool() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(POOL, np.float32)


def _values(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    """Return the float32 values of a leaf.

    A kernel keeps the variance of what it multiplies; others are near 0, or near 1 for scales.
    """
    keys = [each.key for each in path]
    start, count = zlib.crc32("/".join(keys).encode()) % POOL, math.prod(leaf.shape)
    noise = _pool()[start : start + count]
    if count > len(noise):  # from the end of the pool on from its beginning
        noise = np.concatenate([noise, np.resize(_pool(), count - len(noise))])
    noise = noise.reshape(leaf.shape)
    if keys[-1] == "embedding":
        return noise.copy()
    if keys[-1] != "kernel":
        return 0.05 * noise + np.float32(keys[-1] == "scale")
    # of a convolution the positions count too; dense kernels may be stacked
    fan_in = math.prod(leaf.shape[:-1]) if len(leaf.shape) == 4 else leaf.shape[-2]
    return noise * np.float32(fan_in**-0.5)


def random_params(shapes: Any) -> Any:
    """Return float32 NumPy arrays for a tree of ShapeDtypeStruct."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    _pool()  # once, and not in every thread
    with concurrent.futures.ThreadPoolExecutor() as threads:
        return tree.unflatten(threads.map(lambda leaf: _values(*leaf), leaves))


def on_device(shapes: Any) -> Any:
    """Return `random_params` on the default device, in the types of `shapes`.

    One leaf follows the other, so that little is held in float32.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    return tree.unflatten(jnp.asarray(_values(*leaf)).astype(leaf[1].dtype) for leaf in leaves)


def cascade_params(
    description: CascadeDescription, have: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the parameters of all parts by name, on the default device.

    Matrices have the type in which their part computes. have: parts that are there already.
    """
    return {
        part: have[part] if part in have else on_device(computed_shapes(description, part))
        for part in description.parts
    }
