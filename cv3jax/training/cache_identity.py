"""The identity of a feature cache: the data, view and encoders that it was made from.

`data_pipeline.records.feature_cache` keeps it. It is made before encoding, and compared with a run
that reads the cache.
"""

from pathlib import Path
from typing import Any

from cv3jax.cascade.parts import build_model
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.checkpoints.fingerprint import encoder_fingerprint
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.vae import Autoencoder
from cv3jax.training.data_settings import DataSettings
from cv3jax.training.settings import StageSettings
from data_pipeline.records.feature_cache import FORMAT, captions_of, described
from data_pipeline.records.records import RecordSource


def cache_identity(
    settings: StageSettings,
    directory: Path,
    description: CascadeDescription,
    records: RecordSource,
    *,
    latents: str | None,
    text: str | None,
) -> dict[str, Any]:
    """Return the identity of a feature cache of `records` for the stage of `settings`.

    The encoders are those of the cascade in `directory`. latents, text: the types in which they are
    stored; None leaves them out.
    """
    identity = {
        "format": FORMAT,
        "records": described(records),
        "view": view(settings.data) if latents else None,
        "latents": None,
        "text": None,
    }
    if latents:
        identity["latents"] = {
            "dtype": latents,
            **latent_identity(settings, directory, description),
        }
    if text:
        identity["text"] = {
            "dtype": text,
            **text_identity(settings, directory, description),
            "captions": captions_of(records),
        }
    return identity


def view(data: DataSettings) -> dict[str, Any]:
    """Return which part of an image is encoded: its middle, at the least zoom."""
    return {
        "image_size": data.image_size,
        "zoom": float(data.zoom[0]),
        "crop_grid": data.crop_grid,
    }


def latent_identity(
    settings: StageSettings, directory: Path, description: CascadeDescription
) -> dict[str, Any]:
    """Return which autoencoder makes the latents, and their shape."""
    vae = build_model(Autoencoder, description.vae.model)
    side = settings.data.image_size // vae.factor
    return {
        "shape": [side, side, vae.z_channels],
        "low": settings.relay,
        "computed": settings.vae.dtype,
        "vae": encoder_fingerprint(directory, description, "vae"),
    }


def text_identity(
    settings: StageSettings, directory: Path, description: CascadeDescription
) -> dict[str, Any]:
    """Return which text encoder makes the features, and their shape."""
    t5 = build_model(T5Encoder, description.t5.model)
    return {
        "shape": [description.t5.length, t5.channels],
        "computed": settings.text.dtype,
        "t5": encoder_fingerprint(directory, description, "t5"),
    }
