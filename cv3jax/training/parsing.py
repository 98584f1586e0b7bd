"""From a stage's recipe to its typed settings.

Only this module and that of distillations read a ConfigDict below the commands.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from cv3jax.recipes import to_json
from cv3jax.training.data_settings import DataSettings
from cv3jax.training.settings import (
    STAGES,
    AutoencoderObjective,
    BatchSettings,
    MeshSettings,
    ObjectiveSettings,
    OptimSettings,
    ProfileSettings,
    SampleSettings,
    ScheduleSettings,
    StageSettings,
    TextSettings,
    TrainSettings,
    VaeSettings,
)
from data_pipeline.io.errors import InputError

SCALARS = ("stage", "seed", "attention", "cascade", "init_from", "init_part")
OPTIONAL = {
    "profile": ProfileSettings,
    "text": TextSettings,
    "vae": VaeSettings,
    "schedule": ScheduleSettings,
    "sample": SampleSettings,
}


def parse_stage(config: ConfigDict) -> StageSettings:
    """The settings of the stage that a recipe describes. Sections of other commands stay unread.

    Raises:
        InputError: a field that is missing, or has a value that no stage could run with.
    """
    check_stage(config.stage)
    vae = config.stage == "vae"
    sections = {
        name: section(cls, config[name], name) for name, cls in OPTIONAL.items() if name in config
    }
    return StageSettings(
        **{name: config[name] for name in SCALARS if name in config},
        mesh=section(MeshSettings, config.mesh, "mesh"),
        batch=section(BatchSettings, config.batch, "batch"),
        data=section(DataSettings, config.data, "data"),
        model=dict(config.model),
        objective=section(
            AutoencoderObjective if vae else ObjectiveSettings, config.objective, "objective"
        ),
        optim=section(OptimSettings, config.optim, "optim"),
        train=section(TrainSettings, config.train, "train"),
        json=to_json(config),
        **sections,
    )


def check_stage(stage: str) -> None:
    """Raise InputError on a stage that there is none of."""
    if stage not in STAGES:
        raise InputError(f"config.stage = {stage!r}: one of {', '.join(STAGES)}")


def section(cls: type, values: ConfigDict, name: str) -> Any:
    """A settings class from a section of a recipe; fields it lacks take the class's defaults.

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
            f"config.{name} has no {', '.join(missing)}; start it from cv3jax.configs.common"
        )
    return cls(**{field.name: values[field.name] for field in fields if field.name in values})
