"""What a companion dataset is made of, as `data_pipeline.records.feature_cache` keeps it: said before encoding, and
held against a run that reads one.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cv3jax.cascade.parts import build_model
from cv3jax.checkpoints.fingerprint import fingerprint
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.vae import Autoencoder
from data_pipeline.records.feature_cache import FORMAT, captions_of, described
from data_pipeline.records.records import RecordSource


def plan(
    config: ConfigDict,
    directory: Path,
    description: dict,
    records: RecordSource,
    *,
    latents: str | None,
    text: str | None,
) -> dict[str, Any]:
    """The facts of a companion of `records` for the stage of `config`, behind the encoders of the
    cascade in `directory`.

    latents, text: the types they are stored in; None leaves them out.
    """
    facts = {
        "format": FORMAT,
        "records": described(records),
        "view": view(config) if latents else None,
        "latents": None,
        "text": None,
    }
    if latents:
        facts["latents"] = {"dtype": latents, **latent_facts(config, directory, description)}
    if text:
        facts["text"] = {
            "dtype": text,
            **text_facts(config, directory, description),
            "captions": captions_of(records),
        }
    return facts


def view(config: ConfigDict) -> dict[str, Any]:
    """What of an image is encoded: its middle, at the least zoom."""
    return {
        "image_size": config.data.image_size,
        "zoom": float(config.data.zoom[0]),
        "crop_grid": config.data.crop_grid,
    }


def latent_facts(config: ConfigDict, directory: Path, description: dict) -> dict[str, Any]:
    """Which autoencoder makes latents of what shape."""
    vae = build_model(Autoencoder, description["vae"]["model"])
    side = config.data.image_size // vae.factor
    return {
        "shape": [side, side, vae.z_channels],
        "low": config.schedule.blur != "none",
        "computed": config.vae.dtype,
        "vae": fingerprint(directory, description, "vae"),
    }


def text_facts(config: ConfigDict, directory: Path, description: dict) -> dict[str, Any]:
    """Which text encoder makes features of what shape."""
    t5 = build_model(T5Encoder, description["t5"]["model"])
    return {
        "shape": [description["t5"]["length"], t5.channels],
        "computed": config.text.dtype,
        "t5": fingerprint(directory, description, "t5"),
    }
