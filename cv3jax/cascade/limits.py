"""What a cascade can draw: sizes and relay passes, steps and guidance of distilled stages."""

import numpy as np

from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.checkpoints.description import CascadeDescription, StageDescription
from data_pipeline.io.errors import InputError

MAX_PASSES = 4  # doublings of the base's side: the paper iterates the relay twice, tiles beyond


def untrained(
    name: str, stage: StageDescription, steps: int, guidance: float | np.ndarray
) -> str | None:
    """Why a distilled stage cannot do so many steps, or that w: it knows those it was trained for.

    None where it can.
    """
    knows = stage.distilled
    if knows and steps != knows.steps:
        return (
            f"{steps} steps for the {name} stage: it was distilled to {knows.steps} and works with"
            f" no other number; give {knows.steps}"
        )
    if knows and knows.w and not np.all((guidance >= knows.w[0]) & (guidance <= knows.w[1])):
        return (
            f"guidance {guidance} for the {name} stage: it was distilled for"
            f" {knows.w[0]:g}..{knows.w[1]:g}; give a value of that range"
        )
    return None


def check_trained(description: CascadeDescription, given: dict[str, SamplerSettings]) -> None:
    """Raise InputError where the settings given for a stage are not what it was distilled to.

    given: by the stage's name; one that the cascade lacks is passed over.
    """
    for name, settings in given.items():
        if (stage := description.stages.get(name)) is not None:
            chosen = settings.of(stage)
            if problem := untrained(name, stage, chosen.steps, chosen.guidance):
                raise InputError(problem)


def relay_passes(
    description: CascadeDescription, size: int | None = None, side: int | None = None
) -> int:
    """How many relay passes images of side `size` take from `side` (the base's).

    Raises InputError on one that there is no way to.
    """
    stages = description.stages
    side = stages["base"].image_size if side is None else side
    relays = "relay" in stages and stages["relay"].kind == "relay"  # sr_1024's is not one yet
    final = side * (1 + relays) if size is None else size
    passes = max(final // side, 1).bit_length() - 1
    if side << passes != final or passes > MAX_PASSES or (passes and not relays):
        allowed = (
            f"{side}, or that doubled up to {MAX_PASSES} times"
            if relays
            else f"{side} only, because it has no relay stage"
        )
        raise InputError(f"size {final}: this cascade makes pictures of {allowed}")
    return passes
