"""Small parts on one device, read from their store without orbax.

Its import and its restoring of a few megabytes take most of a second, which is a fifth of the time
to a first picture. Large and sharded parts are left to it, because it bounds what is in memory.
"""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore
from jax.sharding import SingleDeviceSharding

from cv3jax.checkpoints import stored_sizes

SMALL = 2**28  # bytes of a part, which are in memory twice while it is read


def is_small(place: Path, like: Any) -> bool:
    """Return whether `read` is for the part at `place`.

    like: its shapes, dtypes and shardings, or None for what is stored, which orbax reads. A part
    that has no readable store is not.
    """
    leaves = jax.tree.leaves(like)
    shardings = [getattr(leaf, "sharding", None) for leaf in leaves]
    alone = all(isinstance(one, SingleDeviceSharding) for one in shardings)
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    return bool(leaves) and alone and size <= SMALL and bool(stored_sizes.stored_shapes(place))


def read(place: Path, like: Any) -> Any:
    """Return the arrays of the orbax tree at `place` as `like` says.

    Raises ValueError where it has other names or shapes, or cannot be read.
    """
    leaves, tree = jax.tree.flatten_with_path(like)
    names = [tuple(key.key for key in path) for path, _ in leaves]
    stored = stored_sizes.stored_shapes(place)
    if differing := sorted(stored.keys() ^ set(names)):
        raise ValueError(f"{'/'.join(differing[0])} is in one of the two only")
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if stored[name] != tuple(leaf.shape):
            raise ValueError(
                f"{'/'.join(name)} is stored as {stored[name]}, but {tuple(leaf.shape)} is expected"
            )
    context = tensorstore.Context()
    base = {"driver": "file", "path": f"{place.resolve()}/"}
    opened = [
        tensorstore.open(
            {
                "driver": "zarr",
                "kvstore": {"driver": "ocdbt", "base": base, "path": ".".join(name) + "/"},
            },
            open=True,
            read=True,
            context=context,
        )
        for name in names
    ]
    reading = [
        tensorstore.cast(array.result(), np.dtype(leaf.dtype).name).read()
        for array, (_, leaf) in zip(opened, leaves, strict=True)
    ]
    arrays = [
        jax.device_put(values.result(), leaf.sharding)
        for values, (_, leaf) in zip(reading, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, arrays)
