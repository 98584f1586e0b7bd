"""`named`: whether pictures of scenes show what short prompts name, by data_pipeline's pixel judge.

A prompt need not be a caption: what it leaves out may be anything.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL.Image import Image

from cv3jax.evaluation.metrics.base import PictureMetric, versions
from cv3jax.evaluation.metrics.weight_files import Found
from data_pipeline.io.errors import InputError
from data_pipeline.scenes.named import named, shows
from data_pipeline.scenes.vision import see


def open_named(found: dict[str, Found]) -> PictureMetric:
    """Return the metric `named`: 1 for a picture that shows what its prompt names, else 0."""
    del found  # no weights
    protocol: dict[str, Any] = {
        "metric": "named",
        "revision": 1,  # to be raised with a change of data_pipeline/scenes that moves a verdict
        "versions": versions("numpy", "pillow"),
    }
    return PictureMetric("named", "higher", protocol, _score)


def _score(images: Sequence[Image], prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return {"named": float64 [n]}.

    Raises:
        InputError: a prompt names no shape of the scenes, or a picture is not square or too small.
    """
    return {"named": np.array([_shown(*one) for one in zip(images, prompts, strict=True)], float)}


def _shown(image: Image, prompt: str) -> bool:
    background, things = named(prompt)
    if not things:
        raise InputError(f"the metric named takes prompts that name shapes, not {prompt[:80]!r}")
    return shows(see(np.asarray(image)), background, things)
