"""The mesh and what lies where on it. One rule by path and shape places the whole train state, moments and EMA included."""

import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor", "context")
BATCH = ("data", "fsdp")  # the batch axis is split over both
STACKED = ("blocks", "layers")  # scanned modules, whose leading axis is the layer


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1, context: int = 1, devices: list | None = None) -> Mesh:
    """A mesh of the four axes over all devices; one axis may be -1 and takes what is left. Raises ValueError when they do not fit."""
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor, context]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"mesh axes must be positive, one of them may be -1, not {dict(zip(AXES, sizes))}")
    if -1 in sizes:
        known = -math.prod(sizes)
        if len(devices) % known:
            raise ValueError(f"{len(devices)} devices do not divide over mesh {dict(zip(AXES, sizes))}")
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(f"mesh {dict(zip(AXES, sizes))} needs {math.prod(sizes)} devices, there are {len(devices)}")
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 4, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over data and fsdp."""
    return NamedSharding(mesh, P(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_ways(mesh: Mesh) -> int:
    """Over how many devices the batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def tree_sharding(tree, mesh: Mesh, min_size: int = 2**16):
    """A sharding for every leaf of `tree` (arrays or ShapeDtypeStructs): its largest axis that |fsdp| divides, over fsdp.

    Leaves under `min_size` elements and those without such an axis are replicated. The layer axis of scanned modules is
    never split: every device needs every layer.
    """
    ways = mesh.shape["fsdp"]

    def place(path, leaf):
        first = int(any(getattr(key, "key", None) in STACKED for key in path))
        axes = [axis for axis in range(first, len(leaf.shape)) if leaf.shape[axis] % ways == 0]
        if ways == 1 or math.prod(leaf.shape) < min_size or not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, P(*(("fsdp" if axis == longest else None) for axis in range(len(leaf.shape)))))

    return jax.tree.map_with_path(place, tree)


def make_constrain(mesh: Mesh):
    """The models' `constrain`: keeps activations split by batch at block ends, which the compiler else gathers in the backward pass."""
    rows = batch_sharding(mesh)
    return lambda x: jax.lax.with_sharding_constraint(x, rows)
