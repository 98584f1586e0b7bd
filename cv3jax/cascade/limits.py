"""What a cascade can draw: sizes and relay passes, and steps and guidance of distilled stages."""

import numpy as np

from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.checkpoints.description import CascadeDescription, StageDescription
from data_pipeline.io.errors import InputError, counted

# doublings of the base's side; the paper iterates the relay twice, and tiles beyond that
MAX_PASSES = 4


def untrained(
    name: str, stage: StageDescription, steps: int, guidance: float | np.ndarray
) -> str | None:
    """Return why a distilled stage cannot use these steps or this guidance, or None.

    A distilled stage works only with the steps and guidance weights that it was trained for.
    """
    knows = stage.distilled
    if knows and steps != knows.steps:
        return (
            f"{counted(steps, 'step')} for the {name} stage: this stage was distilled to"
            f" {knows.steps} and works with no other number; give {knows.steps}"
        )
    if knows and knows.w and not np.all((guidance >= knows.w[0]) & (guidance <= knows.w[1])):
        return (
            f"guidance {guidance} for the {name} stage: this stage was distilled for guidance"
            f" {knows.w[0]:g}..{knows.w[1]:g}; give a value in that range"
        )
    return None


def check_trained(description: CascadeDescription, given: dict[str, SamplerSettings]) -> None:
    """Raise InputError where the settings given for a stage are not those it was distilled for.

    given: by the name of the stage; the settings of a stage that the cascade lacks are ignored.
    """
    for name, settings in given.items():
        if (stage := description.stages.get(name)) is not None:
            chosen = settings.of(stage)
            if problem := untrained(name, stage, chosen.steps, chosen.guidance):
                raise InputError(problem)


def relay_passes(
    description: CascadeDescription, size: int | None = None, side: int | None = None
) -> int:
    """Return how many relay passes lead from images of `side` (the base's) to images of `size`.

    Raises InputError on a size that no number of passes gives.
    """
    stages = description.stages
    side = stages["base"].image_size if side is None else side
    # the relay of sr_1024 is not one yet
    relays = "relay" in stages and stages["relay"].kind == "relay"
    final = side * (1 + relays) if size is None else size
    passes = max(final // side, 1).bit_length() - 1
    if side << passes != final or passes > MAX_PASSES or (passes and not relays):
        allowed = (
            f"{side} pixels per side, doubled at most {MAX_PASSES} times"
            if relays
            else f"{side} pixels per side only, because it has no relay stage"
        )
        raise InputError(f"size {final}: this cascade makes pictures of {allowed}")
    return passes
