"""The interface of a stage to the training loop, and the split of a global batch over the mesh."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cv3jax.distributed.mesh import batch_ways, make_mesh
from cv3jax.training.measures import HeldOut, Pictures
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError


class Stage(Protocol):
    """What `training.run` needs of any stage."""

    like: Any  # the train state's shapes and shardings, for restoring it
    data: Any  # the loader's iterator
    place: Callable[[dict], Any]  # a numpy batch → global arrays
    # what `export` would write, and where its other parts are: `checkpoints.newest.about`
    cascade: dict[str, Any]

    def create(self) -> Any:
        """Return the fresh train state, placed on the mesh."""

    def compile(self) -> None:
        """Compile what `step` calls, for every size of batch; called once before the first step."""

    def step(self, state: Any, batch: Any) -> tuple[Any, dict]:
        """Run the train step: (state, placed batch) → (state, metrics); the state is donated."""

    def flops(self, batch: Any) -> int | None:
        """Return the FLOPs of the update of a placed batch, or None (`throughput.flops_of`)."""

    def preview(self, directory: Path) -> Callable[[Any, int], Any]:
        """Return a function (ema, step) → uint8 [H, W, 3] that writes it into `directory` too."""

    def held_out(self) -> HeldOut | None:
        """Return the held-out figures, or None without train.eval_data."""

    def pictures(self) -> Pictures:
        """Return the fixed pictures of evaluations."""

    def export(self, ema: Any, directory: Path) -> dict:
        """Write the cascade with this stage's EMA. Returns figures of it."""


class MeshPlan(NamedTuple):
    """The mesh, and the number of microbatches in a device's share of a global batch."""

    mesh: Any
    accumulate: int  # microbatches per update


def mesh_plan(settings: StageSettings, devices: list | None = None) -> MeshPlan:
    """Return the mesh plan of a stage, by default over all devices.

    Accumulation is global batch / (ways the batch is sharded × images per device and microbatch).

    Raises:
        InputError: the mesh does not fit the devices, or the batch does not divide over it.
    """
    try:
        mesh = make_mesh(**dataclasses.asdict(settings.mesh), devices=devices)
    except ValueError as e:
        raise InputError(f"config.mesh: {e}") from e
    if mesh.shape["tensor"] > 1 and mesh.shape["context"] > 1:
        raise InputError("config.mesh: tensor and context are both above 1; set one of them to 1")
    ways, size = batch_ways(mesh), settings.batch.size
    if size < 1 or size % ways:
        raise InputError(
            f"config.batch.size = {size} does not divide over the {ways} devices that the mesh"
            f" splits a batch over; give a multiple of {ways}"
        )
    share = size // ways
    per_device = min(settings.batch.per_device, share)
    if per_device < 1 or share % per_device:
        raise InputError(
            f"config.batch.per_device = {settings.batch.per_device}: each device has {share} of the"
            f" {size} images of a batch; give a divisor of {share}"
        )
    return MeshPlan(mesh, share // per_device)
