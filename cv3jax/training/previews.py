"""Pictures of a stage in training."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.stage_sampler import fold
from cv3jax.diffusion.pixels import down2, to_pixels, to_uint8, up2
from cv3jax.reports.pictures import contact_sheet
from cv3jax.training.over_time import Preview
from cv3jax.training.settings import StageSettings
from data_pipeline.loading.damaged import readable
from data_pipeline.loading.loader import make_loader
from data_pipeline.loading.settings import CropSettings, LoaderSettings
from data_pipeline.records.records import RecordSource

CAPTIONS = 4  # of the data, where the recipe has no prompts
IMAGES = 6  # of the data, that a relay enlarges


def preview_prompts(settings: StageSettings, records: RecordSource) -> list[str]:
    """Return the recipe's prompts, or the captions of the first readable records."""
    if settings.sample.prompts:
        return list(settings.sample.prompts)
    return [record["caption"] for record in itertools.islice(readable(records), CAPTIONS)]


def preview_captions(settings: StageSettings, records: RecordSource) -> list[str]:
    """Return the captions of the pictures that the stage's preview draws."""
    if settings.relay:
        return [record["caption"] for record in itertools.islice(readable(records), IMAGES)]
    return preview_prompts(settings, records)


def base_preview(cascade: Cascade, settings: StageSettings, records: RecordSource) -> Preview:
    """Return pictures for the recipe's prompts or the data's captions, and a sheet of them."""
    prompts = preview_prompts(settings, records)
    keys = jax.vmap(jax.random.key)(jnp.arange(len(prompts)))
    images = cascade.decode(
        cascade.stage(
            settings.stage,
            cascade.text(prompts),
            keys,
            cascade.noise(keys, settings.data.whole_side),
        )
    )
    return Preview(contact_sheet([images], columns=prompts), images, prompts)


def relay_preview(cascade: Cascade, settings: StageSettings, records: RecordSource) -> Preview:
    """Return what a relay makes of real images, and a sheet with the steps of its pass.

    The steps are the images shrunk to half and enlarged, the autoencoder's round trip of these, the
    relay's results, and the originals.
    """
    some, side = list(itertools.islice(readable(records), IMAGES)), settings.data.whole_side
    real, captions = first_images(some, side, len(some)), [record["caption"] for record in some]
    keys = jax.vmap(jax.random.key)(jnp.arange(len(some)))
    low_pixels = up2(down2(to_pixels(jnp.asarray(real))))
    low = cascade.encode(low_pixels, cascade.noise(keys, side))
    own = fold(keys, 1)
    images = cascade.decode(
        cascade.stage(settings.stage, cascade.text(captions), own, cascade.noise(own, side), low)
    )
    rows = [np.asarray(to_uint8(low_pixels)), cascade.decode(low), images, real]
    sheet = contact_sheet(
        rows, rows=("half size, enlarged", "round trip", "relay", "original"), columns=captions
    )
    return Preview(sheet, images, captions, real)


def first_images(records, side: int, count: int) -> np.ndarray:
    """Return the first `count` readable images, cropped at the middle.

    The result is uint8 [count, side, side, 3], or fewer where there are fewer.
    """
    some = list(itertools.islice(readable(records), count))
    batches = make_loader(
        some,
        LoaderSettings(
            batch_size=max(len(some), 1),
            image_size=side,
            seed=0,
            crop=CropSettings(random_crop=False),
            num_threads=0,
            shuffle=False,
            num_epochs=1,
        ),
    )
    return next(batches)["image"]
