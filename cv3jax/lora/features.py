"""The feature cache of a fine-tune: WORKDIR/features, made before training.

Small sets pass through many epochs, in each of which the frozen encoders would compute the same.
"""

from pathlib import Path
from typing import NamedTuple

from cv3jax.precompute.run import run
from cv3jax.training.feature_cache import check_view
from cv3jax.training.frozen import frozen_description
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.store import address_of
from data_pipeline.io.progress import say
from data_pipeline.loading.shares import parse

FEATURES = "features"  # in the workdir


class Types(NamedTuple):
    """The types in which latents and text features are stored; None: they are not."""

    latents: str | None
    text: str | None


def cacheable(settings: StageSettings) -> tuple[Types, str]:
    """Return what a stage may read from a feature cache, and why not the rest, or "".

    A stage that computes in bfloat16 loses nothing where text features are stored so; for others
    everything is stored in float32.

    Raises InputError where config.cascade does not fit.
    """
    if settings.stage not in ("base", "relay"):
        return Types(None, None), f"the stage {settings.stage} trains on the pictures themselves"
    if settings.data.buckets:
        return Types(None, None), "config.data.buckets: a feature cache has one size"
    path = settings.data.path
    if path and any(address_of(each) for each, _ in parse(path)):
        return Types(None, None), "config.data.path: a feature cache is made of records on a disk"
    half = settings.model["dtype"] == "bfloat16"
    latents: str | None = "float16" if half else "float32"
    text: str | None = "bfloat16" if half else "float32"
    why = []
    try:
        check_view(settings.data)
    except InputError:
        latents = None
        why.append("its crops, flips or zooms are drawn at random, so the latents are not stored")
    if settings.masked:
        latents = None
        why.append("objective.masked reads masks from the pictures, so the latents are not stored")
    if frozen_description(settings)[1].t5 is None:
        text = None
        why.append("the text encoder is random and part of the run, so its features are not stored")
    return Types(latents, text), "; ".join(why)


def features_of(settings: StageSettings, workdir: Path) -> Path | None:
    """Return WORKDIR/features, the feature cache of config.data.path, after making what lacks.

    None where the stage cannot read one. Features of other records or encoders are replaced. Ended
    or killed, the next call continues at the shard that was not complete.

    Raises:
        InputError: the records or config.cascade do not fit.
        StoppedError: a signal came.
    """
    types, why = cacheable(settings)
    if why:
        say(f"cv3jax: {why}")
    if types == (None, None):
        return None
    out = workdir / FEATURES
    run(
        settings,
        out,
        latents=types.latents,
        text=types.text,
        batch=settings.batch.per_device,
        overwrite=True,
    )
    return out
