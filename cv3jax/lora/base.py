"""The trained stage that is adapted: found and checked before anything is loaded."""

from collections.abc import Mapping
from typing import Any

from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import StageDescription
from cv3jax.lora.settings import LoraSettings
from data_pipeline.io.errors import InputError

SIZES = ("channels", "channel_mult", "res_blocks", "depth", "mid_depth", "head_dim")


def field_of(settings: LoraSettings) -> str:
    """Return the field of the config that names the base."""
    return "init_from" if settings.stage.init_from else "cascade"


def base_stage(settings: LoraSettings, *, sizes: bool = False) -> StageDescription:
    """Return the description of the stage that is adapted.

    sizes: whether those of the recipe's UNet are compared too. Loading the base compares all
    shapes, but commands prepare pictures before that.

    Raises InputError where there is none, or where it was trained in another way than the recipe
    says.
    """
    where = f"config.{field_of(settings)} = {settings.base}"
    if not settings.base:
        raise InputError(
            "config.cascade is not set; give a trained checkpoint, e.g. --config.cascade=runs/base"
        )
    _, description = cascades.read_cascade(settings.base)
    if settings.part not in description.stages:
        there = ", ".join(sorted(description.stages)) or "a vae only"
        raise InputError(
            f"{where} has no {settings.part} to adapt: it has {there}; give another checkpoint or"
            " recipe"
        )
    stage = description.stages[settings.part]
    _check(settings, stage, where, sizes)
    return stage


def _check(settings: LoraSettings, stage: StageDescription, where: str, sizes: bool) -> None:
    """Raise InputError where the stage and the recipe differ in what the training is."""
    ours = settings.stage
    kind = "relay" if ours.relay else "base"
    if stage.kind != kind:
        raise InputError(
            f"{where}: its {settings.part} is a {stage.kind} stage, but the recipe is of a {kind}"
            " stage; give a recipe or checkpoint of that kind"
        )
    if stage.w_dim:
        raise InputError(
            f"{where}: its {settings.part} is distilled, and the plain loss would undo that; adapt"
            " the stage that it was distilled from"
        )
    differ = [name for name in SIZES if _differs(stage.model, ours.model, name)]
    if sizes and differ:
        name = differ[0]
        raise InputError(
            f"config.model.{name} = {ours.model[name]}, but {where} has {stage.model[name]} in its"
            f" {settings.part}; give a recipe of that size, or another checkpoint"
        )
    theirs: dict = {
        "objective.prediction": stage.prediction,
        "schedule.zero_snr": stage.zero_snr,
    }
    if kind == "relay":
        theirs["schedule.start"] = stage.start
        theirs |= {"schedule.blur": stage.blur} if stage.blur else {}
    for field, value in theirs.items():
        section, name = field.split(".")
        if (mine := getattr(getattr(ours, section), name)) != value:
            raise InputError(
                f"config.{field} = {mine}, but {where} has {value}; give --config.{field}={value}"
            )


def _differs(theirs: Mapping[str, Any], ours: Mapping[str, Any], name: str) -> bool:
    """Return whether both models have a size, and not the same."""

    def plain(value):
        return tuple(value) if isinstance(value, list) else value

    return name in theirs and name in ours and plain(theirs[name]) != plain(ours[name])
