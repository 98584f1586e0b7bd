"""Shard the whole train state, moments and EMA included, by one rule of path and shape."""

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax.distributed.mesh import BATCH


def abstract(tree: Any, sharding: Any = None) -> Any:
    """Return `tree` as ShapeDtypeStructs, with `sharding` attached (one, or a matching tree)."""
    shapes = jax.eval_shape(lambda x: x, tree)
    if sharding is None:
        return shapes
    shardings = (
        sharding
        if jax.tree.structure(sharding) == jax.tree.structure(shapes)
        else jax.tree.map(lambda _: sharding, shapes)
    )
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


STACKED = ("blocks", "layers")  # scanned modules, whose leading axis is the layer
# elements from which on a parameter is sharded: gathering smaller ones costs more than their memory
MIN_SIZE = 2**16
# What the tensor axis shards, by the end of a kernel's path: the columns of projections to heads or
# to the wide feed-forward, and the rows of projections back (arXiv 1909.08053 §3), so that each
# pair needs one reduction, at its end. The GEGLU's values and gates follow one another in one
# kernel, as in the released weights. Its columns are therefore cut into other parts than those it
# computes in, which costs one more permutation per block.
COLUMNS = ("q", "k", "v", "ff_in")
ROWS = ("out", "ff_out")
ATTENTION = ("self_attention", "cross_attention")
# never sharded: they are read in float32, and a gathered parameter has the computation's type
WHOLE = ("lora_magnitude",)


def tensor_axis(path: tuple[str, ...]) -> int | None:
    """Return which axis of the parameter at `path` the mesh's tensor axis shards, or None.

    The axis is counted from the end.
    """
    if STACKED[0] not in path or path[-1] not in ("kernel", "bias"):
        return None
    name, inside = path[-2], path[-3] in ATTENTION or path[-2].startswith("ff_")
    if inside and name in COLUMNS:
        return -1
    return -2 if inside and name in ROWS and path[-1] == "kernel" else None


def names(path) -> tuple[str, ...]:
    """Return the names along one of JAX's paths."""
    return tuple(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    )


def spec(path: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> P:
    """Return the PartitionSpec of the leaf at `path`.

    The tensor axis follows the table above. Then fsdp takes the largest other axis that it divides.
    Leaves with fewer than MIN_SIZE elements, leaves without such an axis and those of WHOLE are
    replicated. The layer axis of scanned modules is never sharded, because every device needs every
    layer.
    """
    if path[-1] in WHOLE:
        return P()
    axes: list[str | None] = [None] * len(shape)
    ways, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    if math.prod(shape) >= MIN_SIZE or (tensor > 1 and len(shape) == 2):
        split = tensor_axis(path) if tensor > 1 else None
        if split is not None and -split <= len(shape) and shape[split] % tensor == 0:
            axes[split] = "tensor"
    if ways > 1 and math.prod(shape) >= MIN_SIZE:
        first = int(any(name in STACKED for name in path))
        free = [
            axis
            for axis in range(first, len(shape))
            if axes[axis] is None and shape[axis] % ways == 0
        ]
        if free:
            axes[max(free, key=lambda axis: shape[axis])] = "fsdp"
    return P(*axes) if any(axes) else P()


def context_problem(mesh: Mesh, rows: int, stages: int) -> str | None:
    """Return why the context axis cannot split latents of `rows` in a UNet of `stages`, or None.

    Each device needs the same number of rows of the lowest resolution, at least two: a convolution
    of stride 2 that leaves one row on each of two devices gives wrong results (XLA's Shardy, jaxlib
    0.10.2).
    """
    ways, lowest = mesh.shape["context"], rows // 2 ** (stages - 1)
    if ways == 1 or (lowest % ways == 0 and lowest >= 2 * ways):
        return None
    most = max((n for n in range(1, lowest // 2 + 1) if lowest % n == 0), default=1)
    return (
        f"context={ways}: latents of {rows} rows have {lowest} at the UNet's lowest resolution, and"
        f" each device needs the same number of them, at least two; give a context of {most}"
    )


def tree_specs(tree, mesh: Mesh):
    """Return the `spec` of every leaf of `tree` (arrays or ShapeDtypeStructs)."""
    return jax.tree.map_with_path(lambda path, leaf: spec(names(path), leaf.shape, mesh), tree)


def tree_sharding(tree, mesh: Mesh):
    """Return the sharding of every leaf of `tree`, by `spec`; moments and EMA follow parameters."""
    return named(tree_specs(tree, mesh), mesh)


def named(specs: Any, mesh: Mesh) -> Any:
    """Return the shardings on a mesh of a tree of specs."""
    return jax.tree.map(lambda p: NamedSharding(mesh, p), specs, is_leaf=lambda x: isinstance(x, P))


def make_constrain(mesh: Mesh):
    """Return the models' `constrain` under jit.

    It shards activations [B, H, ...] or [B, H·W, ...] by batch, and by height over context.
    """
    split = NamedSharding(mesh, P(BATCH, "context") if mesh.shape["context"] > 1 else P(BATCH))
    return lambda x: jax.lax.with_sharding_constraint(x, split)
