"""The dtype in which a model computes, for parameters that are only read."""

from typing import Any

import jax
import jax.numpy as jnp

# parameters that a model casts to its own dtype, whatever type they are stored in
MATRICES = ("kernel", "embedding")


def as_computed(tree: Any, dtype: Any) -> Any:
    """Return `tree`, arrays or shapes, with its matrices as `dtype`.

    Frozen parameters lose nothing when they are kept in the type in which they are used.
    """

    def cast(path, x):
        if path[-1].key not in MATRICES:
            return x
        return (
            jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
            if isinstance(x, jax.ShapeDtypeStruct)
            else x.astype(dtype)
        )

    return jax.tree.map_with_path(cast, tree)
