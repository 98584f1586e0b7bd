"""The fixed pictures of evaluations: the same prompts and seeds every time."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.stage_sampler import fold
from cv3jax.diffusion.pixels import down2, to_pixels, up2
from cv3jax.sampling.inputs import read_prompts
from cv3jax.training.measures import Pictures
from cv3jax.training.previews import first_images, preview_prompts
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError
from data_pipeline.loading.damaged import readable
from data_pipeline.records.records import RecordSource
from data_pipeline.scenes import grammar

AT_ONCE = 4  # pictures that are drawn at a time, as many as a preview has
SCENES = "scenes"
SCENES_SEED = 30_000  # of the captions; the reports of finished runs have others


def fixed_prompts(settings: StageSettings, records: Any, held_out: Any) -> list[str]:
    """Return the prompts of train.eval_prompts, at most train.eval_pictures.

    Raises InputError where it is no file of prompts.
    """
    given, count = settings.train.eval_prompts, settings.train.eval_pictures
    if given == SCENES:
        scenes = (
            grammar.sample_scene(SCENES_SEED, i, split="heldout", textured=float(i % 2))
            for i in range(count)
        )
        return [grammar.caption(scene) for scene in scenes]
    if given:
        try:
            return [prompt.text for prompt in read_prompts(Path(given), 1)[0][:count]]
        except InputError as e:
            said = str(e).removeprefix(f"--prompts {given}")
            raise InputError(f"config.train.eval_prompts = {given}{said}") from e
    if held_out is None:
        return preview_prompts(settings, records)[:count]
    return [record["caption"] for record in itertools.islice(readable(held_out), count)]


def reference_of(settings: StageSettings, held_out: Any, side: int) -> Callable[[], np.ndarray]:
    """Return a function: () → the held-out pictures. It raises InputError where there are none."""

    def reference() -> np.ndarray:
        if held_out is None:
            raise InputError(
                f"config.train.eval_metrics = {settings.train.eval_metrics}: a metric of them"
                " compares with held-out pictures; give config.train.eval_data"
            )
        return first_images(held_out, side, len(held_out))

    return reference


def stage_pictures(
    settings: StageSettings, cascade: Cascade, records: RecordSource, held_out: Any
) -> Pictures:
    """Return the fixed pictures of a base or relay stage, as it is described in `cascade`.

    A relay begins with real pictures at half size, held-out ones where there are some. Raises
    InputError on prompts that a relay has no pictures for.
    """
    train, side, real = settings.train, settings.data.whole_side, None
    if settings.relay:
        if train.eval_prompts:
            raise InputError(
                f"config.train.eval_prompts = {train.eval_prompts}: a relay enlarges pictures of"
                " the data and takes their captions; leave it out"
            )
        source = records if held_out is None else held_out
        some = list(itertools.islice(readable(source), train.eval_pictures))
        prompts = [record["caption"] for record in some]
        real = first_images(some, side, len(some))
    else:
        prompts = fixed_prompts(settings, records, held_out)

    def draw(ema: Any) -> np.ndarray:
        now = cascade.with_params(settings.stage, ema)
        parts = [_draw(now, settings.stage, prompts, real, side, rows) for rows in _rows(prompts)]
        return np.concatenate(parts)[: len(prompts)]

    return Pictures(prompts, side, draw, reference_of(settings, held_out, side))


def _rows(prompts: list[str]) -> list[np.ndarray]:
    """Return the rows of each call; the last one is filled up, so that one program serves all."""
    count = len(prompts)
    starts = range(0, count, AT_ONCE)
    return [np.minimum(np.arange(start, start + AT_ONCE), count - 1) for start in starts]


def _draw(
    cascade: Cascade,
    stage: str,
    prompts: list[str],
    real: np.ndarray | None,
    side: int,
    rows: np.ndarray,
) -> np.ndarray:
    """Return the pictures of some rows; that of row i has the seed i."""
    keys, low = jax.vmap(jax.random.key)(jnp.asarray(rows)), None
    text = cascade.text([prompts[i] for i in rows])
    if real is not None:
        pixels = up2(down2(to_pixels(jnp.asarray(real[rows]))))
        low, keys = cascade.encode(pixels, cascade.noise(keys, side)), fold(keys, 1)
    return cascade.decode(cascade.stage(stage, text, keys, cascade.noise(keys, side), low))
