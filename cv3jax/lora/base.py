"""The trained stage that is adapted: found and checked before anything is loaded."""

from cv3jax.cascade.parts import build_model, check_sizes, model_of, model_shapes
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import StageDescription
from cv3jax.lora.settings import LoraSettings
from cv3jax.lora.targets import chosen
from cv3jax.models.adapters import kernels
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from cv3jax.training.frozen import frozen_description
from data_pipeline.io.errors import InputError


def field_of(settings: LoraSettings) -> str:
    """Return the field of the config that names the base."""
    return "init_from" if settings.stage.init_from else "cascade"


def base_stage(settings: LoraSettings) -> StageDescription:
    """Return the description of the stage that is adapted.

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
    _check(settings, stage, where)
    return stage


def check_fit(settings: LoraSettings) -> None:
    """Raise InputError where a run would refuse the base or the targets; no weights are read.

    A command that prepares pictures calls it first, because that may take hours.
    """
    base_stage(settings)
    ours, frozen = settings.stage, frozen_description(settings.stage)[1]
    vae = build_model(Autoencoder, frozen.vae.model)
    t5 = build_model(T5Encoder, (frozen.t5 or ours.text.description).model)
    model = model_of(UNet, ours.model, "config.model", out_channels=vae.z_channels)
    shapes = model_shapes(model, t5.channels)
    where = f"config.{field_of(settings)} = {settings.base}"
    description = cascades.read_cascade(settings.base)[1]
    check_sizes(description, settings.part, shapes, ours.model, where)
    chosen(settings.targets, kernels(shapes))


def _check(settings: LoraSettings, stage: StageDescription, where: str) -> None:
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
