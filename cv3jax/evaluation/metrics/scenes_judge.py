"""`judge`: whether pictures of scenes show what their captions say, by data_pipeline's pixel judge.

It takes captions of the scenes' grammar only.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL.Image import Image

from cv3jax.evaluation.metrics.base import PictureMetric, versions
from cv3jax.evaluation.metrics.weight_files import Found
from data_pipeline.io.errors import InputError
from data_pipeline.scenes.grammar import parse
from data_pipeline.scenes.judge import PROPERTIES, judge


def open_judge(found: dict[str, Found]) -> PictureMetric:
    """Return the metric `judge`: 1 where a property is right and 0 where it is wrong."""
    del found  # no weights
    protocol: dict[str, Any] = {
        "metric": "judge",
        "revision": 1,  # to be raised with a change of data_pipeline/scenes that moves a verdict
        "versions": versions("numpy", "pillow"),
    }
    return PictureMetric("judge", "higher", protocol, _score, check=_check)


def _check(prompts: Sequence[str]) -> None:
    """Raise InputError, which has the first of them, where prompts are no captions of scenes."""
    for prompt in prompts:
        with _naming():
            parse(prompt)


def _score(images: Sequence[Image], prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return judge.all, one column per property, and judge.detail where all are large enough.

    Raises:
        InputError: a picture is not square or too small, or a prompt is no caption of scenes.
    """
    verdicts = [_judged(each, prompt) for each, prompt in zip(images, prompts, strict=True)]
    names = ["all", *PROPERTIES]
    if verdicts and all("detail" in verdict for verdict in verdicts):
        names.append("detail")
    return {
        f"judge.{name}": np.array([verdict[name] for verdict in verdicts], np.float64)
        for name in names
    }


def _judged(image: Image, prompt: str) -> dict[str, bool]:
    with _naming():
        return judge(np.asarray(image), prompt)


@contextlib.contextmanager
def _naming() -> Iterator[None]:
    """Add the metric's name to an InputError of the block."""
    try:
        yield
    except InputError as e:
        raise InputError(f"the metric judge takes pictures and captions of scenes: {e}") from e
