"""A stage's records, loader and batches."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cv3jax.distributed.batches import own_rows
from cv3jax.distributed.mesh import batch_sharding
from cv3jax.training.data_settings import DataSettings
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError
from data_pipeline.loading.bucket_sizes import Size
from data_pipeline.loading.loader import Loader, Prepare, make_loader
from data_pipeline.loading.mixture import Mixture, open_datasets
from data_pipeline.loading.settings import CropSettings, LoaderSettings
from data_pipeline.records.records import RecordSource

BEHIND = 10  # the niceness of a loader's threads beside a step on the CPU


def open_data(data: DataSettings) -> RecordSource | Mixture:
    """Return the records of config.data.path.

    Raises InputError where it is unset, missing, empty or damaged.
    """
    if not data.path:
        raise InputError(
            "config.data.path is not set; give a record directory, e.g."
            " --config.data.path=runs/scenes"
        )
    try:
        records = open_datasets(data.path, data.shard_cache)
    except InputError as e:
        raise InputError(f"config.data.path: {e}") from e
    if data.cache and (isinstance(records, Mixture) or data.buckets):
        raise InputError(
            "config.data.cache: a feature cache has one dataset at one size, so it works neither"
            " with a mixture of datasets nor with config.data.buckets; leave these out, or the"
            " cache"
        )
    return records


def loader(
    settings: StageSettings,
    records: RecordSource | Mixture,
    tokenize: Callable | None,
    mesh: Any,
    prepare: Prepare | None = None,
) -> Loader:
    """Return the training iterator over this process's rows of each batch.

    `prepare` replaces decoding and cropping.
    """
    return make_loader(
        records,
        loader_settings(settings),
        tokenize=tokenize,
        rows=own_rows(mesh, settings.batch.size),
        prepare=prepare,
    )


def loader_settings(settings: StageSettings) -> LoaderSettings:
    """Return the content and order of a stage's batches, and the threads that prepare them."""
    return LoaderSettings(
        batch_size=settings.batch.size,
        image_size=settings.data.image_size,
        seed=settings.seed,
        crop=crop_settings(settings),
        num_threads=settings.data.threads,
        num_workers=settings.data.workers,
        # where the step computes on the cores that decode, it comes first
        niceness=BEHIND if jax.default_backend() == "cpu" else 0,
        buckets=settings.data.sizes,
        min_side=settings.data.min_side or 0,
        max_damaged=settings.data.max_damaged,
        window=settings.data.window,
    )


def crop_settings(settings: StageSettings) -> CropSettings:
    """Return how config.data crops, flips and captions a record, and whether it has a mask."""
    data = settings.data
    return CropSettings(
        zoom=data.zoom,
        zoom_levels=data.zoom_levels,
        crop_grid=data.crop_grid,
        random_crop=data.random_crop,
        flip=data.flip,
        recaption_prob=data.recaption,
        alpha=settings.masked,
    )


def batch_like(settings: StageSettings, mesh: Any, length: int | None = None) -> dict:
    """Return a batch of the loader on the mesh, as shapes.

    length: tokens per caption; None without captions.
    """
    size, side = settings.batch.size, settings.data.image_size
    shapes = {"image": ((size, side, side, 3), np.uint8), "sizes": ((size, 6), np.int32)}
    shapes |= {} if length is None else {"tokens": ((size, length), np.int32)}
    shapes |= {"mask": ((size, side, side), np.uint8)} if settings.masked else {}
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for name, (shape, dtype) in shapes.items()
    }


def of_size(batch: dict, size: Size) -> dict:
    """Return `batch_like` with images, and masks, of (height, width)."""
    return batch | {
        name: jax.ShapeDtypeStruct((x.shape[0], *size, *x.shape[3:]), x.dtype, sharding=x.sharding)
        for name, x in batch.items()
        if name in ("image", "mask")
    }


def by_size(programs: dict[Size, Any], batch: dict) -> Any:
    """Return the programs for a batch's images; batches without images have one size."""
    return (
        programs[batch["image"].shape[1:3]] if "image" in batch else next(iter(programs.values()))
    )
