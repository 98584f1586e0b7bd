"""Fingerprints of arrays on the devices: equal bits have equal ones, and others almost never."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def fingerprint(arrays: Any, axis: int = 0) -> jax.Array:
    """Return two hashes, uint32 [N, 2], of the bits in each of N slices of arrays on an axis."""
    leaves = [jnp.moveaxis(x, axis, 0) for x in jax.tree.leaves(arrays)]
    total = jnp.zeros((len(leaves[0]), 2), jnp.uint32)
    for number, x in enumerate(leaves):
        rows = x.reshape(len(x), -1)
        width = {2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(rows, width).astype(jnp.uint32)
        place = jnp.arange(bits.shape[1], dtype=jnp.uint32) * jnp.uint32(2_654_435_761)
        for part in (0, 1):
            salt = np.uint32(0x9E3779B9 * (2 * number + part + 1) % 2**32)
            hashed = _mixed(_mixed(bits ^ salt) + place)
            total = total.at[:, part].add(hashed.sum(1, dtype=jnp.uint32))
    return total


def _mixed(x: jax.Array) -> jax.Array:
    """Return x uint32 with its bits mixed, as MurmurHash ends."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
