"""Identify what a run reads by its content.

When a run is resumed, a path may change where the content is the same, and the content at a path
may not change.
"""

import hashlib
from pathlib import Path
from typing import Any

from cv3jax.checkpoints.fingerprint import encoder_fingerprint
from cv3jax.training.data import open_data
from cv3jax.training.data_settings import DataSettings
from cv3jax.training.frozen import frozen_description
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.fetched import fetched
from data_pipeline.loading.shares import parse
from data_pipeline.records.digest import cache_content, dataset_content, json_digest


def stage_inputs(settings: StageSettings) -> dict[str, Any]:
    """Return {field: the identity of the content at its path}, as JSON, of what every step reads.

    `data_pipeline.records.digest.alike` compares two. Raises InputError on a missing path, as
    building the stage does.
    """
    found: dict[str, Any] = {"data.path": data_content(settings.data)}
    if settings.data.cache:
        found["data.cache"] = cache_content(fetched(settings.data.cache, "config.data.cache"))
    if settings.stage != "vae":
        found["cascade"] = encoders_identity(settings)
    perceptual = getattr(settings.objective, "perceptual", None)
    if perceptual and Path(perceptual).is_file():
        with Path(perceptual).open("rb") as file:
            found["objective.perceptual"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def encoders_identity(settings: StageSettings) -> str:
    """Return the identity of the frozen encoders of config.cascade."""
    directory, description = frozen_description(settings)
    encoders = [part for part in ("vae", "t5") if part in description.parts]
    return json_digest([encoder_fingerprint(directory, description, part) for part in encoders])


def data_content(data: DataSettings) -> list:
    """Return the contents of the datasets of config.data.path, with their weights."""
    if not data.path:
        open_data(data)  # raises the error
    try:
        return [
            [dataset_content(path, data.shard_cache), weight] for path, weight in parse(data.path)
        ]
    except InputError as e:
        raise InputError(f"config.data.path: {e}") from e
