"""The dtype a model computes in, for parameters that are only read."""

from typing import Any

import jax
import jax.numpy as jnp

# what a model computes with as its own dtype, whatever it is stored as
MATRICES = ("kernel", "embedding")


def as_computed(tree: Any, dtype: Any) -> Any:
    """`tree`, arrays or shapes, with its matrices as `dtype`: of frozen parameters nothing is lost
    by keeping them as they are used.
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
