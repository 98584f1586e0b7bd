"""The linear preview of an imported autoencoder's latents."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from cv3jax.cascade import preview
from cv3jax.cascade.parts import build_model, load_params
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.models.vae import Autoencoder
from data_pipeline.io.progress import waiting


def previewed(directory: Path, description: CascadeDescription) -> CascadeDescription:
    """Return the description with a preview of latents, fitted to the autoencoder in `directory`.

    Without an autoencoder, and where its latents are not finite, it stays as it is.
    """
    if description.vae is None:
        return description
    vae = build_model(Autoencoder, description.vae.model)
    params, _ = load_params(directory, description, ("vae",))
    pixels = preview.colours(preview.COUNT, preview.SIDE * vae.factor)
    encode = jax.jit(lambda params, x: vae.apply({"params": params}, x, method="encode")[0])
    with waiting("fitting the preview of latents"):
        latents = description.vae.measured * np.asarray(encode(params["vae"], pixels))
    fitted = dataclasses.replace(description.vae, preview=preview.described(pixels, latents))
    return dataclasses.replace(description, vae=fitted)
