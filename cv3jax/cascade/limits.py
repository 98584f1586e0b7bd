"""What a stage can be sampled with: steps, guidance weights and strength, and latents."""

import numpy as np

from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size, multiple_of, stage_multiple
from cv3jax.checkpoints.description import CascadeDescription, StageDescription
from cv3jax.diffusion.points import T
from data_pipeline.io.errors import InputError, counted


def untrained(
    name: str,
    stage: StageDescription,
    steps: int,
    guidance: float | np.ndarray,
    strength: float = 1.0,
) -> str | None:
    """Return why a stage cannot use these steps, this guidance or this strength, or None.

    A distilled stage works only with the steps and guidance weights that it was trained for, and
    from its trained start. A base stage has no other start.
    """
    knows = stage.distilled
    if knows and steps != knows.steps:
        return (
            f"{counted(steps, 'step')} for the {name} stage: this stage was distilled to"
            f" {knows.steps} and works with no other number; give {knows.steps}"
        )
    if not 0.0 < strength <= 1.0:
        return f"strength {strength}: give a value above 0 and at most 1"
    if strength != 1.0 and stage.kind != "relay":
        return f"strength {strength} for the {name} stage: only a relay starts from a picture"
    if knows and strength != 1.0:
        return (
            f"strength {strength} for the {name} stage: it was distilled to {knows.steps}"
            f" step{'s' * (knows.steps > 1)} from its trained start and works from no other; give 1"
        )
    if knows and knows.w and not np.all((guidance >= knows.w[0]) & (guidance <= knows.w[1])):
        return (
            f"guidance {guidance} for the {name} stage: this stage was distilled for guidance"
            f" {knows.w[0]:g}..{knows.w[1]:g}; give a value in that range"
        )
    return None


def most_steps(stage: StageDescription) -> int:
    """Return the most steps of a stage: each has a t of its own, from where the stage starts."""
    return stage.start if stage.kind == "relay" else T


def wrong_tile(stage: StageDescription, tile: int) -> str | None:
    """Return why a stage cannot predict in tiles of `tile` pixels per side, or None."""
    step = stage_multiple(stage)
    if tile >= 2 * step and tile % step == 0:
        return None
    return (
        f"tile {tile}: give a multiple of {step} pixels, at least {2 * step}, for the {stage.kind}"
        " stage"
    )


def check_trained(description: CascadeDescription, given: dict[str, SamplerSettings]) -> None:
    """Raise InputError where the settings given for a stage are not those it was distilled for.

    Tiles that the stage cannot have are refused too. given: by the name of the stage; the settings
    of a stage that the cascade lacks are ignored.
    """
    for name, settings in given.items():
        if (stage := description.stages.get(name)) is not None:
            chosen = settings.of(stage)
            if problem := untrained(name, stage, chosen.steps, chosen.guidance, chosen.strength):
                raise InputError(problem)
            if settings.tile and (problem := wrong_tile(stage, settings.tile)):
                raise InputError(problem)


def check_latents(
    description: CascadeDescription,
    name: str,
    shape: tuple[int, ...],
    low: tuple[int, ...] | None = None,
) -> None:
    """Raise InputError where stage `name` cannot sample latents of this shape, [B, h, w, z].

    low: the shape of the latents that a relay starts from.
    """
    step = multiple_of(description, name)
    size = Size(*shape[1:3]).times(description.stages[name].factor)
    if not size.is_multiple(step):
        raise InputError(
            f"the {name} stage draws pictures whose height and width are multiples of {step}"
            f" pixels, not {size}"
        )
    if low is not None and low != shape:
        raise InputError(
            f"the {name} stage starts from a picture of its own size: the latents of that are"
            f" {list(low)}, those of the noise {list(shape)}"
        )
