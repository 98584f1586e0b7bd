"""A stage's records, loader and batches."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cv3jax.distributed.batches import own_rows
from cv3jax.distributed.mesh import batch_sharding
from data_pipeline.io.errors import InputError
from data_pipeline.loading import buckets
from data_pipeline.loading.loader import Loader, Prepare, make_loader
from data_pipeline.loading.mixture import Mixture, open_datasets
from data_pipeline.loading.settings import CropSettings, LoaderSettings
from data_pipeline.records.records import RecordSource


def open_data(config: ConfigDict) -> RecordSource | Mixture:
    """The records of config.data.path. Raises InputError when unset, missing, empty or damaged."""
    if not config.data.path:
        raise InputError(
            "config.data.path is not set; give a record directory, e.g."
            " --config.data.path=runs/scenes"
        )
    try:
        records = open_datasets(config.data.path)
    except InputError as e:
        raise InputError(f"config.data.path: {e}") from e
    if config.data.get("cache") and (isinstance(records, Mixture) or config.data.get("buckets")):
        raise InputError(
            "config.data.cache is the companion of one dataset, of one size: no mixture, no"
            " config.data.buckets"
        )
    return records


def bucket_sizes(config: ConfigDict) -> tuple[buckets.Size, ...]:
    """Those of config.data.buckets; none where it is not set.

    Raises InputError on a list that cannot be.
    """
    try:
        return buckets.parse(config.data.get("buckets") or "", config.data.image_size)
    except InputError as e:
        raise InputError(f"config.data.buckets: {e}") from e


def loader(
    config: ConfigDict,
    records: RecordSource | Mixture,
    tokenize: Callable | None,
    mesh: Any,
    prepare: Prepare | None = None,
) -> Loader:
    """The training iterator, of this process's rows of each batch.

    `prepare` stands for decoding and cropping.
    """
    return make_loader(
        records,
        LoaderSettings(
            batch_size=config.batch.size,
            image_size=config.data.image_size,
            seed=config.seed,
            crop=crop_settings(config),
            num_threads=config.data.threads,
            num_workers=config.data.get("workers", 0),
            buckets=bucket_sizes(config),
            max_damaged=config.data.get("max_damaged", 0),
        ),
        tokenize=tokenize,
        rows=own_rows(mesh, config.batch.size),
        prepare=prepare,
    )


def crop_settings(config: ConfigDict) -> CropSettings:
    """What a step sees of a record, as config.data says."""
    data = config.data
    return CropSettings(
        zoom=tuple(data.zoom),
        zoom_levels=data.zoom_levels,
        crop_grid=data.crop_grid,
        random_crop=data.random_crop,
        flip=data.flip,
        recaption_prob=data.get("recaption", 0.0),
    )


def batch_like(config: ConfigDict, mesh: Any, length: int | None = None) -> dict:
    """A batch of the loader on the mesh, as shapes; `length` tokens a caption, None without
    captions.
    """
    size, side = config.batch.size, config.data.image_size
    shapes = {"image": ((size, side, side, 3), np.uint8), "sizes": ((size, 6), np.int32)}
    shapes |= {} if length is None else {"tokens": ((size, length), np.int32)}
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for name, (shape, dtype) in shapes.items()
    }


def of_size(batch: dict, size: buckets.Size) -> dict:
    """`batch_like` with images of (height, width)."""
    if "image" not in batch:
        return batch
    image = batch["image"]
    return {
        **batch,
        "image": jax.ShapeDtypeStruct(
            (image.shape[0], *size, 3), image.dtype, sharding=image.sharding
        ),
    }


def by_size(programs: dict[buckets.Size, Any], batch: dict) -> Any:
    """The programs for a batch's images. Where batches have none, there is but one size."""
    return (
        programs[batch["image"].shape[1:3]] if "image" in batch else next(iter(programs.values()))
    )
