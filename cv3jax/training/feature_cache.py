"""A run that reads latents and text features from a companion dataset: whether it may, and what its
loader and steps take from it.
"""

import functools
from pathlib import Path

import numpy as np

from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.recipes import differences
from cv3jax.training.cache_identity import latent_identity, text_identity, view
from cv3jax.training.data import crop_settings
from cv3jax.training.data_settings import DataSettings
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError
from data_pipeline.loading.cached import CachedExamples
from data_pipeline.loading.crops import crop
from data_pipeline.loading.loader import Prepare
from data_pipeline.records.feature_cache import (
    EncodedSource,
    latent_arrays,
    open_cache,
    text_arrays,
)
from data_pipeline.records.records import RecordSource

Arrays = dict[str, tuple[tuple[int, ...], np.dtype]]  # name → (shape, dtype) of a batch's row


def open_feature_cache(
    settings: StageSettings,
    directory: Path,
    description: CascadeDescription,
    records: RecordSource,
) -> EncodedSource | None:
    """The companion at config.data.cache, None where none is given.

    `directory` and `description` are those of config.cascade.

    Raises:
        InputError: it is of other records, or of another view, stage or encoder than the recipe
            has.
    """
    path = settings.data.cache
    if not path:
        return None
    cache = open_cache(path, records)
    ours: dict[str, dict] = {}
    theirs = {name: dict(cache.identity[name] or {}) for name in ("view", "latents", "text")}
    if theirs["latents"]:
        check_view(settings.data)
        ours |= {
            "view": view(settings.data),
            "latents": latent_identity(settings, directory, description),
        }
        if not ours["latents"]["low"]:  # a relay's companion has all that a base needs
            theirs["latents"]["low"] = False
    if theirs["text"]:
        if description.t5 is None:
            raise InputError(
                f"config.data.cache = {path} has text features, but config.cascade ="
                f" {settings.cascade} has no t5 that made them; give the cascade that did"
            )
        ours["text"] = text_identity(settings, directory, description)
    for section, fields in ours.items():
        theirs[section] = {name: theirs[section].get(name) for name in fields}
    if changed := differences(ours, {name: theirs[name] for name in ours}):
        other = f"was encoded with other values of {', '.join(changed)}"
        raise InputError(f"config.data.cache = {path} {other}; give those, or encode again")
    return cache


def check_view(data: DataSettings) -> None:
    """Raise InputError where the recipe would show other views of an image than the one of which
    there are latents.
    """
    low, high = data.zoom
    right = {
        "random_crop=False": not data.random_crop,
        "flip=False": not data.flip,
        f"zoom='({low}, {low})'": low == high,
    }
    if fields := [f"--config.data.{field}" for field, fine in right.items() if not fine]:
        raise InputError(
            f"config.data.cache has latents of one view of each image; give {' '.join(fields)}, or"
            " encode with --latents none"
        )


def arrays(settings: StageSettings, cache: EncodedSource | None) -> Arrays:
    """What a batch holds of the companion: in place of images {mean, dev, …}, in place of tokens
    {text, …}.
    """
    if cache is None:
        return {}
    latents = {
        name: kind
        for name, kind in latent_arrays(cache.identity).items()
        if settings.relay or not name.startswith("low")
    }
    return {**latents, **text_arrays(cache.identity)}


def prepare_of(settings: StageSettings, cache: EncodedSource) -> Prepare:
    """What the loader makes an example with."""
    image = None
    if not cache.identity["latents"]:
        # the companion has features of the first caption and of the recaption alone
        image = functools.partial(crop, settings=crop_settings(settings.data), several=False)
    names = tuple(name for name in arrays(settings, cache) if not name.startswith("text"))
    return CachedExamples(
        cache=cache,
        latents=names,
        text=bool(cache.identity["text"]),
        image=image,
        recaption_prob=settings.data.recaption,
    )
