"""From a distillation's recipe to its typed settings, and from any recipe to its fields."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cv3jax.distillation.settings import OWN, DistillSettings, parse_round
from cv3jax.fields import Described, described
from cv3jax.lora.parsing import lora_fields, parse_lora
from cv3jax.lora.settings import LoraSettings
from cv3jax.training.parsing import parse_stage, section, stage_fields
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError

ZERO_SNR = "schedule.zero_snr"


def parse_distillation(config: ConfigDict) -> DistillSettings:
    """Return the settings of the distillation that a recipe describes.

    Raises InputError as `parse_stage` does, and on rounds that cannot be.
    """
    if "distill" not in config:
        raise InputError(
            "--config: the recipe has no section distill; give a distillation recipe, such as"
            " distill_base"
        )
    OWN["stage"].check("stage", config.stage)
    OWN[ZERO_SNR].check(ZERO_SNR, config.schedule.get("zero_snr", False))
    given = dict(config.distill)
    given["rounds"] = tuple(parse_round(n, entry) for n, entry in enumerate(given["rounds"], 1))
    return section(DistillSettings, {"stage": parse_stage(config), **given}, "distill")


def parse_recipe(config: ConfigDict) -> StageSettings | DistillSettings | LoraSettings:
    """Return the settings of a recipe of any kind. Raises InputError as the parsers do."""
    if "lora" in config:
        return parse_lora(config)
    return parse_distillation(config) if "distill" in config else parse_stage(config)


def recipe_fields(values: Mapping[str, Any]) -> dict[str, Described]:
    """Return dotted name → meaning and rule of every field that a recipe of this kind may have.

    values: the recipe, which may be plain dictionaries.
    """
    if "lora" in values:
        return lora_fields(values["stage"])
    fields = stage_fields(values["stage"])
    if "distill" in values:
        distill = described(DistillSettings).items()
        fields |= OWN | {f"distill.{name}": one for name, one in distill}
    return fields
