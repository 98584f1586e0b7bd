"""From a distillation's recipe to its typed settings."""

from ml_collections import ConfigDict

from cv3jax.distillation.settings import DistillSettings, parse_round
from cv3jax.training.parsing import parse_stage
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError


def parse_distillation(config: ConfigDict) -> DistillSettings:
    """The settings of the distillation that a recipe describes.

    Raises InputError as `parse_stage` does, and on rounds that cannot be.
    """
    if "distill" not in config:
        raise InputError(
            "the config has no distill; take a distillation recipe, such as distill_base"
        )
    if config.stage not in ("base", "relay"):
        raise InputError(f"config.stage = {config.stage!r}: one of base, relay")
    stage, given = parse_stage(config), config.distill
    return DistillSettings(
        stage=stage,
        rounds=tuple(parse_round(n, entry) for n, entry in enumerate(given.rounds, 1)),
        target=given.target,
        ema=given.ema,
        w=tuple(given.w),
        diverged=given.diverged,
        student=given.get("student"),
    )


def parse_recipe(config: ConfigDict) -> StageSettings | DistillSettings:
    """The settings of a recipe of either kind. Raises InputError as both parsers do."""
    return parse_distillation(config) if "distill" in config else parse_stage(config)
