"""From a recipe to the stage that the loop trains."""

from pathlib import Path

from ml_collections import ConfigDict

from cv3jax.training.stage import Stage
from cv3jax.training.validation import check
from data_pipeline.io.errors import InputError


def build(config: ConfigDict, workdir: Path) -> Stage:
    """The pieces of the stage `config` describes.

    Raises InputError as its parts do, before anything is written to `workdir`.
    """
    from cv3jax.training.autoencoder import build_vae
    from cv3jax.training.diffusion import build_diffusion

    check(config)
    if config.stage not in ("vae", "base", "relay"):
        raise InputError(f"config.stage = {config.stage!r}: one of vae, base, relay")
    return build_vae(config) if config.stage == "vae" else build_diffusion(config, workdir)
