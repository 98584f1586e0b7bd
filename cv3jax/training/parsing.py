"""From a stage's recipe to its typed settings, and to what each of its fields means.

Only this module and that of distillations read a ConfigDict below the commands.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cv3jax.fields import Described, check_given, described
from cv3jax.recipes import to_json
from cv3jax.training.data_settings import DataSettings
from cv3jax.training.model_settings import (
    AutoencoderFields,
    TextSettings,
    UNetFields,
    VaeSettings,
)
from cv3jax.training.optim_settings import OptimSettings
from cv3jax.training.settings import (
    AutoencoderObjective,
    BatchSettings,
    MeshSettings,
    ObjectiveSettings,
    ProfileSettings,
    SampleSettings,
    ScheduleSettings,
    StageSettings,
    TrainSettings,
)
from data_pipeline.io.errors import InputError

OPTIONAL = {
    "profile": ProfileSettings,
    "text": TextSettings,
    "vae": VaeSettings,
    "schedule": ScheduleSettings,
    "sample": SampleSettings,
}


def sections(stage: str) -> dict[str, type]:
    """Return name → settings class of each section that every recipe of a stage has.

    The class of the model describes its fields; the settings keep a dictionary.
    """
    vae = stage == "vae"
    return {
        "mesh": MeshSettings,
        "batch": BatchSettings,
        "data": DataSettings,
        "model": AutoencoderFields if vae else UNetFields,
        "objective": AutoencoderObjective if vae else ObjectiveSettings,
        "optim": OptimSettings,
        "train": TrainSettings,
    }


def stage_fields(stage: str) -> dict[str, Described]:
    """Return dotted name → meaning and rule of every field that a recipe of a stage may have."""
    found = described(StageSettings)
    for name, cls in (sections(stage) | OPTIONAL).items():
        found |= {f"{name}.{field}": one for field, one in described(cls).items()}
    return found


def stage_defaults(stage: str) -> dict[str, Any]:
    """Return dotted name → value of every field that a recipe of a stage may lack.

    A field that is newer than a recipe has the value with which the recipe means the same.
    """
    return {
        f"{name}.{field.name}": field.default
        for name, cls in (sections(stage) | OPTIONAL).items()
        for field in dataclasses.fields(cls)
        if field.default is not dataclasses.MISSING
    }


def parse_stage(config: ConfigDict) -> StageSettings:
    """Return the settings of the stage that a recipe describes.

    Sections of other commands stay unread.

    Raises:
        InputError: a field that is missing, or has a value that no stage could run with.
    """
    scalars = described(StageSettings)
    scalars["stage"].check("stage", config.stage)
    required = {
        name: section(cls, config[name], name)
        for name, cls in sections(config.stage).items()
        if name != "model"
    }
    others = {
        name: section(cls, config[name], name) for name, cls in OPTIONAL.items() if name in config
    }
    return StageSettings(
        **{name: config[name] for name in scalars if name in config},
        **required,
        **others,
        model=dict(config.model),
        json=to_json(config),
    )


def section(cls: type, values: Mapping[str, Any], name: str) -> Any:
    """Return a settings class of a section of a recipe; fields it lacks take the class's defaults.

    Raises InputError where one without a default is missing.
    """
    fields = dataclasses.fields(cls)
    missing = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.name not in values
    ]
    if missing:
        raise InputError(
            f"config.{name} has no {', '.join(missing)}; begin the recipe with a config of"
            " cv3jax.configs.common"
        )
    check_given(cls, values, name)
    return cls(**{field.name: values[field.name] for field in fields if field.name in values})
