"""The metrics of a run's evaluations, by their names in `train.eval_metrics`.

They are those of `cv3jax.evaluation.metrics`, as means over a few pictures, or as distances from
held-out pictures. A run takes `open_scorers` from its command, because training imports no metric.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cv3jax.evaluation.metrics.base import PictureMetric, SetMetric
from cv3jax.evaluation.metrics.registry import open_metric
from cv3jax.evaluation.protocol import digest, metric_protocol
from cv3jax.evaluation.scoring import features_protocol
from data_pipeline.io.errors import InputError

FIELDS = "config.train.eval_metrics, config.train.eval_weights"


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A metric of a set of pictures.

    Attributes:
        name: as in `train.eval_metrics`.
        better: "higher" or "lower".
        score: (uint8 [N, H, W, 3], N prompts) → {name: value}.
        protocol: the hash of the metric's protocol.
    """

    name: str
    better: str
    score: Callable[[np.ndarray, Sequence[str]], dict[str, float]]
    protocol: str = ""


def open_scorers(
    names: Sequence[str], weights: Path | None, reference: Callable[[], np.ndarray]
) -> list[Scorer]:
    """Return the metrics of these names.

    weights: the directory that `cv3jax evaluate --weights` takes. reference: () → uint8 pictures
    [N, H, W, 3] with which metrics of sets compare.

    Raises:
        InputError: a metric is unknown, its library or weights are missing or wrong, or there are
            no pictures to compare with.
    """
    features, reference = _Features(), functools.cache(reference)
    return [_open(name, weights, reference, features) for name in names]


class _Features:
    """The features of the last pictures; metrics of one network, such as fid and kid, share it."""

    def __init__(self):
        self._pictures, self._known = b"", {}

    def of(self, metric: SetMetric, images: np.ndarray) -> np.ndarray:
        """Return a metric's features of uint8 pictures [n, H, W, 3], [n, d]."""
        pictures = hashlib.sha256(f"{images.shape}".encode() + images.tobytes()).digest()
        if pictures != self._pictures:
            self._pictures, self._known = pictures, {}
        made_by = digest(features_protocol(metric))
        if made_by not in self._known:
            self._known[made_by] = metric.features([Image.fromarray(image) for image in images])
        return self._known[made_by]


def _open(
    name: str, weights: Path | None, reference: Callable[[], np.ndarray], features: _Features
) -> Scorer:
    try:
        metric = open_metric(name, weights)
    except InputError as e:
        raise InputError(f"{FIELDS}: {e}") from e
    if isinstance(metric, PictureMetric):
        score = functools.partial(means, metric)
    else:
        score = _distances(metric, reference(), features)
    return Scorer(name, metric.better, score, digest(metric_protocol(name, metric.protocol)))


def means(metric: PictureMetric, images: np.ndarray, prompts: Sequence[str]) -> dict[str, float]:
    """Return the mean of each column of a metric over the pictures that it measures; NaN if none.

    Raises InputError as the metric does.
    """
    try:
        scores = metric.score([Image.fromarray(image) for image in images], list(prompts))
    except InputError as e:
        raise InputError(f"config.train.eval_metrics: {e}; give other prompts or metrics") from e
    measured = {name: values[~np.isnan(values)] for name, values in scores.items()}
    return {
        name: float(np.mean(values)) if len(values) else float("nan")
        for name, values in measured.items()
    }


def _distances(metric: SetMetric, pictures: np.ndarray, features: _Features) -> Callable:
    """Return a function: images, prompts → the distances from the pictures."""
    theirs = features.of(metric, pictures)
    if len(theirs) < metric.least:
        raise InputError(
            f"config.train.eval_metrics: {metric.name} takes at least {metric.least} held-out"
            f" pictures, not {len(theirs)}; give more config.train.eval_records"
        )

    def distances(images: np.ndarray, prompts: Sequence[str]) -> dict[str, float]:
        ours = features.of(metric, images)
        return {name: float(value) for name, value in metric.figures(ours, theirs).items()}

    return distances
