"""From a recipe to the pieces the training loop takes: data, models, state, the compiled step,
previews and the export.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cv3jax.distributed.mesh import batch_ways, make_mesh
from data_pipeline.io.errors import InputError


class Stage(NamedTuple):
    """What `train_loop` needs of a stage, whichever it is."""

    create: Callable[[], Any]  # → the placed train state
    like: Any  # its shapes and shardings, for restoring it instead
    data: Any  # the loader's iterator
    place: Callable[[dict], Any]  # a numpy batch → global arrays
    step: Callable[[Any, Any], tuple[Any, dict]]  # (state, batch) → (state, metrics)
    preview: Callable[[Path], Callable | None]  # directory → preview(ema, step), or None
    export: Callable[[Any, Path], dict]  # (ema, cascade directory) → figures


class Deal(NamedTuple):
    """The mesh and how a global batch is dealt over it."""

    mesh: Any
    accumulate: int  # microbatches an update


def plan(config: ConfigDict, devices: list | None = None) -> Deal:
    """Mesh and accumulation: global batch / (ways the batch is split × images per device per
    microbatch). Default: all devices.

    Raises:
        InputError: the mesh does not fit the devices, or the batch does not divide over it.
    """
    try:
        mesh = make_mesh(**config.mesh, devices=devices)
    except ValueError as e:
        raise InputError(f"config.mesh: {e}") from e
    if mesh.shape["tensor"] > 1 and mesh.shape["context"] > 1:
        raise InputError(
            "config.mesh: tensor and context are both above 1; take one of them (docs/decisions.md,"
            " Mesh)"
        )
    ways, size = batch_ways(mesh), config.batch.size
    if size < 1 or size % ways:
        raise InputError(
            f"config.batch.size = {size} does not divide over the mesh's {ways} batch devices; take"
            f" a multiple of {ways}"
        )
    share = size // ways
    per_device = min(config.batch.per_device, share)
    if per_device < 1 or share % per_device:
        raise InputError(
            f"config.batch.per_device = {config.batch.per_device} does not divide a device's"
            f" {share} of {size} images"
        )
    return Deal(mesh, share // per_device)
