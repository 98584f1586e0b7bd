"""What the fields of a recipe must be."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cv3jax.diffusion.denoiser import PREDICTIONS
from cv3jax.diffusion.losses import WEIGHTINGS
from cv3jax.diffusion.sampler import FORMS
from cv3jax.models.layers import REMATS
from cv3jax.training import profiling
from data_pipeline.io.errors import InputError


def fits(parse: Callable[[Any], Any], value: Any) -> bool:
    """Whether `parse` takes it."""
    try:
        parse(value)
    except ValueError:
        return False
    return True


# field, what it must be, in words; fields a recipe lacks are passed over
RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("seed", lambda v: 0 <= v < 2**31, f"0..{2**31 - 1}"),
    ("train.steps", lambda v: v >= 1, "at least 1"),
    ("train.log_every", lambda v: v >= 0, "0 (only at the end) or more"),
    ("train.save_every", lambda v: v >= 0, "0 (only at the end) or more"),
    ("train.preview_every", lambda v: v >= 0, "0 (only at the end) or more"),
    ("train.keep", lambda v: v >= 1, "at least 1"),
    (
        "profile.steps",
        lambda v: fits(profiling.steps_of, v),
        "first and last step to trace, such as 10:15, or empty",
    ),
    ("optim.lr", lambda v: 0 < v < np.inf, "a positive number"),
    ("optim.warmup", lambda v: v >= 0, "0 or more"),
    ("optim.final", lambda v: 0 <= v <= 1, "0..1, a share of lr"),
    ("optim.weight_decay", lambda v: 0 <= v < np.inf, "0 or more"),
    ("optim.clip", lambda v: v > 0, "a positive number"),
    ("optim.b1", lambda v: 0 <= v < 1, "0..1, without 1"),
    ("optim.b2", lambda v: 0 <= v < 1, "0..1, without 1"),
    ("optim.momentum", lambda v: 0 <= v < 1, "0..1, without 1"),
    ("optim.ema", lambda v: 0 <= v < 1, "0..1, without 1"),
    ("model.channels", lambda v: v >= 1, "at least 1"),
    ("model.dtype", lambda v: v in ("float32", "bfloat16"), "float32 or bfloat16"),
    ("model.remat", lambda v: v in REMATS, f"one of {', '.join(REMATS)}"),
    ("vae.dtype", lambda v: v in ("float32", "bfloat16"), "float32 or bfloat16"),
    ("text.vocab", lambda v: v >= 1, "at least 1"),
    ("text.dtype", lambda v: v in ("float32", "bfloat16"), "float32 or bfloat16"),
    (
        "model.channel_mult",
        lambda v: len(v) > 0 and min(v) >= 1,
        "one factor or more, each at least 1",
    ),
    (
        "data.zoom",
        lambda v: (
            len(v) == 2 and all(isinstance(x, (int, float)) for x in v) and 1 <= v[0] <= v[1] <= 8
        ),
        "two numbers, 1 <= low <= high <= 8",
    ),
    ("data.recaption", lambda v: 0 <= v <= 1, "a probability, 0..1"),
    ("data.threads", lambda v: v >= 0, "0 (none beside the training's own) or more"),
    ("data.workers", lambda v: v >= 0, "0 (threads alone) or more processes"),
    ("data.max_damaged", lambda v: v >= 0, "0 or more"),
    ("objective.prediction", lambda v: v in PREDICTIONS, f"one of {', '.join(PREDICTIONS)}"),
    ("objective.weighting", lambda v: v in WEIGHTINGS, f"one of {', '.join(WEIGHTINGS)}"),
    ("objective.gamma", lambda v: v > 0, "a positive number"),
    ("objective.text_drop", lambda v: 0 <= v <= 1, "a probability, 0..1"),
    ("objective.offset_noise", lambda v: v >= 0, "0 or more"),
    ("objective.kl_weight", lambda v: v >= 0, "0 or more"),
    ("objective.perceptual_weight", lambda v: v >= 0, "0 or more"),
    ("sample.guidance", lambda v: 0 <= v < np.inf, "0 or more"),
    ("sample.eta", lambda v: 0 <= v <= 1, "0..1"),
    ("sample.form", lambda v: v in FORMS, f"one of {', '.join(FORMS)}"),
    (
        "sample.prompts",
        lambda v: len(v) > 0 and all(isinstance(p, str) for p in v),
        "one prompt or more, for the previews",
    ),
)


def check(config: ConfigDict) -> None:
    """Raise InputError on a figure that no stage could run with, naming the field and what would be
    right.
    """
    for field, fine, right in RULES:
        section, _, name = field.rpartition(".")
        values = config.get(section, {}) if section else config
        if name in values and not fine(values[name]):
            raise InputError(f"config.{field} = {values[name]}: must be {right}")
