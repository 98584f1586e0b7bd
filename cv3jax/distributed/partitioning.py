"""What lies where on the mesh.

One rule by path and shape places the whole train state, moments and EMA included.
"""

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax.distributed.mesh import BATCH


def abstract(tree: Any, sharding: Any = None) -> Any:
    """`tree`'s shapes and dtypes as ShapeDtypeStructs, with `sharding` (one, or a matching tree)
    attached.
    """
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
# elements from which a parameter is split: the gathers of smaller ones cost more than their memory
MIN_SIZE = 2**16
# What the tensor axis splits, by the end of a kernel's path: columns of what projects to heads or
# to the wide feed-forward, rows of what projects back (arXiv 1909.08053 §3), so that each pair
# needs one reduction, at its end. The GEGLU's values and gates lie one after the other in one
# kernel, as in the released weights, so that its columns are cut into other parts than it computes
# in: one permutation more a block.
COLUMNS = ("q", "k", "v", "ff_in")
ROWS = ("out", "ff_out")
ATTENTION = ("self_attention", "cross_attention")


def tensor_axis(path: tuple[str, ...]) -> int | None:
    """Which axis of the parameter at `path` the tensor axis of the mesh splits, from the end; None
    where it splits none.
    """
    if STACKED[0] not in path or path[-1] not in ("kernel", "bias"):
        return None
    name, inside = path[-2], path[-3] in ATTENTION or path[-2].startswith("ff_")
    if inside and name in COLUMNS:
        return -1
    return -2 if inside and name in ROWS and path[-1] == "kernel" else None


def names(path) -> tuple[str, ...]:
    """The names along a path of jax's."""
    return tuple(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    )


def spec(path: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> P:
    """What lies where of the leaf at `path`: by the table above over tensor; then its largest other
    axis that |fsdp| divides over fsdp.

    Leaves under MIN_SIZE elements and those without such an axis are replicated. The layer axis of
    scanned modules is never split: every device needs every layer.
    """
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
    """Why the context axis cannot split latents of `rows` in a UNet of `stages`, or None.

    Each device takes two rows or more of the lowest resolution, and all as many: a convolution of
    stride 2 that leaves one row on each of two devices comes out wrong (XLA's Shardy, jaxlib
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
    """`spec` of every leaf of `tree` (arrays or ShapeDtypeStructs)."""
    return jax.tree.map_with_path(lambda path, leaf: spec(names(path), leaf.shape, mesh), tree)


def tree_sharding(tree, mesh: Mesh):
    """A sharding for every leaf of `tree`, by `spec`: one rule for parameters, moments and EMA."""
    return jax.tree.map(
        lambda p: NamedSharding(mesh, p), tree_specs(tree, mesh), is_leaf=lambda x: isinstance(x, P)
    )


def make_constrain(mesh: Mesh):
    """The models' `constrain` under jit: activations [B, H, ...] or [B, H·W, ...] split by batch,
    and by height over context.
    """
    split = NamedSharding(mesh, P(BATCH, "context") if mesh.shape["context"] > 1 else P(BATCH))
    return lambda x: jax.lax.with_sharding_constraint(x, split)
