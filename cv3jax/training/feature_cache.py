"""A run that reads latents and text features from a feature cache.

This module checks whether the cache fits the run, and makes what the loader and the steps need.
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
from data_pipeline.io.objects.fetched import fetched
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

Arrays = dict[str, tuple[tuple[int, ...], np.dtype]]  # name → (shape, dtype) of a row of a batch


def open_feature_cache(
    settings: StageSettings,
    directory: Path,
    description: CascadeDescription,
    records: RecordSource,
) -> EncodedSource | None:
    """Return the feature cache at config.data.cache, or None where none is given.

    One in a bucket is copied to this machine's disk first, all of it.
    `directory` and `description` are those of config.cascade.

    Raises:
        InputError: it was made from other records, or with another view, stage or encoder than the
            recipe's; or it does not fit on this machine's disk.
        OSError: its store fails.
    """
    path = settings.data.cache
    if not path:
        return None
    cache = open_cache(fetched(path, "config.data.cache"), records)
    ours: dict[str, dict] = {}
    theirs = {name: dict(cache.identity[name] or {}) for name in ("view", "latents", "text")}
    if theirs["latents"]:
        check_view(settings.data)
        if settings.masked:
            raise InputError(
                f"config.data.cache = {path} has latents and no masks, but config.objective.masked"
                " is True; encode with --latents none"
            )
        ours |= {
            "view": view(settings.data),
            "latents": latent_identity(settings, directory, description),
        }
        if not ours["latents"]["low"]:  # a relay's feature cache has everything that a base needs
            theirs["latents"]["low"] = False
    if theirs["text"]:
        if description.t5 is None:
            raise InputError(
                f"config.data.cache = {path} has text features, but config.cascade ="
                f" {settings.cascade} has no t5; give the cascade that the text features were made"
                " with"
            )
        ours["text"] = text_identity(settings, directory, description)
    for section, fields in ours.items():
        theirs[section] = {name: theirs[section].get(name) for name in fields}
    if changed := differences(ours, {name: theirs[name] for name in ours}):
        other = f"was encoded with other values of {', '.join(changed)}"
        raise InputError(
            f"config.data.cache = {path} {other}; give the values that it was encoded with, or run"
            " cv3jax data encode again"
        )
    return cache


def check_view(data: DataSettings) -> None:
    """Raise InputError where the recipe needs other views of an image than the cached one."""
    low, high = data.zoom
    right = {
        "random_crop=False": not data.random_crop,
        "flip=False": not data.flip,
        f"zoom='({low}, {low})'": low == high,
    }
    if fields := [f"--config.data.{field}" for field, fine in right.items() if not fine]:
        raise InputError(
            f"config.data.cache has latents of one crop of each image; give {' '.join(fields)}, or"
            " encode with --latents none"
        )


def arrays(settings: StageSettings, cache: EncodedSource | None) -> Arrays:
    """Return what a batch holds of the feature cache.

    It is {mean, dev, …} in place of images, and {text, …} in place of tokens.
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
    """Return the function with which the loader makes an example."""
    image = None
    if not cache.identity["latents"]:
        # the feature cache has features of the first caption and of the recaption only
        image = functools.partial(crop, settings=crop_settings(settings), several=False)
    names = tuple(name for name in arrays(settings, cache) if not name.startswith("text"))
    return CachedExamples(
        cache=cache,
        latents=names,
        text=bool(cache.identity["text"]),
        image=image,
        recaption_prob=settings.data.recaption,
    )
