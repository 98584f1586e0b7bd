"""From the recipe of an adapter to its typed settings."""

from ml_collections import ConfigDict

from cv3jax.fields import Described, described
from cv3jax.lora.picture_settings import PictureSettings
from cv3jax.lora.settings import OWN, LoraSettings
from cv3jax.training.parsing import parse_stage, section, stage_fields
from data_pipeline.io.errors import InputError


def parse_lora(config: ConfigDict) -> LoraSettings:
    """Return the settings of the adapter that a recipe describes.

    Raises InputError as `parse_stage` does.
    """
    if "lora" not in config:
        raise InputError(
            "--config: the recipe has no section lora; give a recipe of an adapter, such as"
            " lora_base"
        )
    OWN["stage"].check("stage", config.stage)
    parse_pictures(config)  # which a run reads only where there is a folder
    return section(LoraSettings, {"stage": parse_stage(config), **config.lora}, "lora")


def lora_fields(stage: str) -> dict[str, Described]:
    """Return dotted name → meaning and rule of every field that such a recipe may have."""
    found = stage_fields(stage) | OWN
    for name, cls in (("lora", LoraSettings), ("pictures", PictureSettings)):
        found |= {f"{name}.{field}": one for field, one in described(cls).items()}
    return found


def parse_pictures(config: ConfigDict) -> PictureSettings:
    """Return what a recipe says of its folder of pictures; the defaults where it says nothing.

    Raises InputError on a field out of range.
    """
    return section(PictureSettings, config.get("pictures", {}), "pictures")
