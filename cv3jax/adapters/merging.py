"""Adapters in a UNet's weights: W + s · up · down, computed in float32.

With DoRA the rows of the sum get the lengths that the magnitude says. The result has the type of
the weight.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cv3jax.adapters.trees import DOWN, MAGNITUDE, NO_DORA, SCALE, UP

KERNEL = "kernel"


def merged(params: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a UNet's parameters with an adapter in them, as `trees.to_tree` has it.

    Parameters that the adapter does not change are those of `params`, not copies. It may be jitted.

    Raises KeyError where a module of the tree is not in `params`.
    """
    made = dict(params)
    for name, node in tree.items():
        own = params[name]
        made[name] = (
            {**own, KERNEL: changed(own[KERNEL], node)} if DOWN in node else merged(own, node)
        )
    return made


def changed(kernel: jax.Array, node: Mapping[str, Any]) -> jax.Array:
    """Return one kernel, or a stack of them, with the leaves of an adapter in it."""
    convolution = node[DOWN].ndim - (node[SCALE].ndim == 1) == 4
    one = _convolution if convolution else _matrix
    one = jax.vmap(one) if node[SCALE].ndim == 1 else one
    wide = {key: jnp.asarray(value).astype(jnp.float32) for key, value in node.items()}
    return one(kernel.astype(jnp.float32), wide).astype(kernel.dtype)


def _matrix(kernel: jax.Array, node: Mapping[str, jax.Array]) -> jax.Array:
    product = jnp.matmul(node[DOWN], node[UP], precision=jax.lax.Precision.HIGHEST)
    total = kernel + node[SCALE] * product
    if MAGNITUDE not in node:
        return total
    wanted, norm = node[MAGNITUDE], jnp.linalg.norm(total, axis=0)
    # a layer without DoRA in a stack; a row of zeros stays one
    factor = jnp.where(
        (wanted == NO_DORA) | (norm == 0), 1.0, wanted / jnp.where(norm == 0, 1.0, norm)
    )
    return total * factor


def _convolution(kernel: jax.Array, node: Mapping[str, jax.Array]) -> jax.Array:
    flat = {**node, DOWN: node[DOWN].reshape(-1, node[DOWN].shape[-1]), UP: node[UP][0, 0]}
    return _matrix(kernel.reshape(-1, kernel.shape[-1]), flat).reshape(kernel.shape)


def merged_all(params: Mapping[str, Any], trees: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return parameters with several adapters in them, one after the other."""
    for tree in trees:
        params = merged(params, tree)
    return dict(params)


def leaves_of(tree: Mapping[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return {path of a kernel: the leaves of its adapter}."""
    found: dict[tuple[str, ...], dict[str, Any]] = defaultdict(dict)

    def walk(node: Mapping[str, Any], path: tuple[str, ...]) -> None:
        if DOWN in node:
            found[(*path, KERNEL)] = dict(node)
            return
        for name, below in node.items():
            walk(below, (*path, name))

    walk(tree, ())
    return dict(found)
