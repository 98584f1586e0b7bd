"""The frozen base as a run holds it: as it computes, or with its blocks' kernels in int8."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cv3jax.distributed.batches import placement
from cv3jax.distributed.partitioning import abstract, named, names
from cv3jax.models.adapters import SCANNED
from cv3jax.models.int8 import Int8, quantized
from cv3jax.models.unet import UNet
from data_pipeline.io import extras

INT8 = "int8"  # of config.lora.base_dtype


def in_int8(path: tuple[str, ...]) -> bool:
    """Return whether the parameter at `path` is a matrix of a block, which int8 is for.

    The others, of the ends and the embeddings, are 2 in 100 of the released base.
    """
    return path[-1] == "kernel" and UNet.gathers(path)


def held_specs(base_dtype: str, specs: Any) -> Any:
    """Return the specs of a base as it is held, from those of its parameters as they compute."""
    return _each(base_dtype, lambda path, p: Int8(p, P()), specs)


def held_like(base_dtype: str, shapes: Any, specs: Any, mesh: Mesh) -> Any:
    """Return the shapes and shardings of a base as it is held.

    shapes: as it computes. specs: of `held_specs`. Raises InputError where qwix is not installed.
    """
    if base_dtype == INT8:
        extras.check("config.lora.base_dtype = int8", "qwix")
    made = _each(
        base_dtype,
        lambda path, x: jax.eval_shape(lambda x: quantized(x, SCANNED in path), x),
        shapes,
    )
    return abstract(made, named(specs, mesh))


def as_held(base: Any, like: Any) -> Any:
    """Return a base as it is held. Each kernel that becomes int8 is deleted when it has.

    like: of `held_like`.
    """

    def one(path, x, like):
        if not isinstance(like, Int8):
            return x
        stacked = SCANNED in names(path)
        make = jax.jit(lambda x: quantized(x, stacked), out_shardings=placement(like))
        made = jax.block_until_ready(make(x))
        x.delete()
        return made

    return jax.tree.map_with_path(one, base, like)


def _each(base_dtype: str, of: Callable[[tuple[str, ...], Any], Any], tree: Any) -> Any:
    """Return a tree of specs or shapes with `of` of those that are held in int8."""
    if base_dtype != INT8:
        return tree
    return jax.tree.map_with_path(
        lambda path, x: of(names(path), x) if in_int8(names(path)) else x,
        tree,
        is_leaf=lambda x: isinstance(x, P),
    )
