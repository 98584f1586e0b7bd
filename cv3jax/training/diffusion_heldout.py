"""The held-out loss of a base or relay stage, and of a student in distillation."""

from collections.abc import Callable, Sequence
from typing import Any

from cv3jax.distributed.backend import waiting
from cv3jax.training.frozen import Frozen
from cv3jax.training.heldout import Batches, Chosen, level_figures, level_names
from cv3jax.training.heldout_losses import LevelLosses, held_out_program, levels
from cv3jax.training.measures import HeldOut
from cv3jax.training.programs import DiffusionPrograms, t_max_of
from cv3jax.training.settings import StageSettings


def held_out_batches(
    settings: StageSettings, programs: DiffusionPrograms, frozen: Frozen, records: Chosen
) -> Batches:
    """Return the held-out records, read and tokenized."""
    with waiting(f"reading {len(records)} held-out records"):
        return Batches(settings, records, frozen.tokenize, programs.network.layout.mesh)


def held_out_losses(
    settings: StageSettings, programs: DiffusionPrograms, frozen: Frozen, made: LevelLosses
) -> Callable[[Any, Any, Batches, Sequence[int]], dict[str, float]]:
    """Return a function: (EMA, aside, batches, t of each level) → the figures."""
    program = held_out_program(settings, programs, made)
    parts = {name: frozen.params[name] for name in ("vae", "t5")}

    def figures(ema, aside, batches, at):
        losses = batches.values(lambda batch: program(ema, parts, aside, batch))
        return level_figures(losses, at)

    return figures


def lower(at: Sequence[int]) -> dict[str, str]:
    """Return that less is better, for the figure of each level."""
    return dict.fromkeys(level_names(at), "lower")


def stage_held_out(
    settings: StageSettings,
    programs: DiffusionPrograms,
    frozen: Frozen,
    records: Chosen,
    made: LevelLosses,
    aside: Any,
) -> HeldOut:
    """Return the held-out figures of a stage. aside: what its losses read besides the EMA."""
    at = levels(t_max_of(settings))
    batches = held_out_batches(settings, programs, frozen, records)
    figures = held_out_losses(settings, programs, frozen, made)
    return HeldOut(lower(at), lambda ema: figures(ema, aside, batches, at))
