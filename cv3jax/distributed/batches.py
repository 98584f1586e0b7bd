"""A process's rows of a global batch, and how they are put on the mesh."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cv3jax.distributed.mesh import batch_sharding


def own_rows(mesh: Any, count: int) -> list[int]:
    """Return the rows of a batch of `count` that this process's devices hold."""
    owned = batch_sharding(mesh).addressable_devices_indices_map((count,)).values()
    return sorted({row for (index,) in owned for row in range(*index.indices(count))})


def placement(like: Any) -> Any:
    """Return the shardings of `Stage.like`."""
    return jax.tree.map(lambda x: x.sharding, like)


def placer(mesh: Any, size: int) -> Callable[[dict], Any]:
    """Return a function: this process's rows of a batch of `size` → arrays over the whole mesh.

    Processes may have rows in common.
    """
    sharding, place = (
        batch_sharding(mesh),
        {row: number for number, row in enumerate(own_rows(mesh, size))},
    )

    owned = [
        (device, index[0].indices(size))
        for device, index in sharding.addressable_devices_indices_map((size,)).items()
    ]

    def put(x: np.ndarray) -> jax.Array:
        parts = [x[place[first] : place[first] + stop - first] for _, (first, stop, _) in owned]
        on_devices = jax.device_put(parts, [device for device, _ in owned])
        return jax.make_array_from_single_device_arrays((size, *x.shape[1:]), sharding, on_devices)

    return lambda batch: jax.tree.map(put, batch)
