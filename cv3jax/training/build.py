"""Build the stage that the loop trains from a recipe's settings."""

from pathlib import Path

from cv3jax.training.autoencoder import AutoencoderStage
from cv3jax.training.diffusion import DiffusionStage
from cv3jax.training.settings import StageSettings
from cv3jax.training.stage import Stage


def build(settings: StageSettings, workdir: Path) -> Stage:
    """Return the stage that the settings describe.

    Raises InputError, as its parts do, before anything is written to `workdir`.
    """
    if settings.stage == "vae":
        return AutoencoderStage(settings)
    return DiffusionStage(settings, workdir)
