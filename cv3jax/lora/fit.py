"""Whether an adapter fits its base, as far as it shows without weights."""

from cv3jax.cascade.parts import build_model, check_sizes, model_of, model_shapes
from cv3jax.checkpoints import cascades
from cv3jax.lora.base import base_stage, field_of
from cv3jax.lora.settings import LoraSettings
from cv3jax.lora.targets import chosen
from cv3jax.models.adapters import kernels
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from cv3jax.training.frozen import frozen_description


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
