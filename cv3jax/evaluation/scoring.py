"""Scoring pictures by a metric, in batches that a killed run does not score again.

A batch is always of the same pictures, because a network may round otherwise in another batch. So
a run that was killed at any time has the scores of one that was not.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cv3jax.evaluation.journal import Journal, Scores
from cv3jax.evaluation.metrics.base import PictureMetric, SetMetric
from cv3jax.evaluation.pictures import Picture
from cv3jax.evaluation.protocol import digest, metric_protocol
from data_pipeline.io import progress
from data_pipeline.io.errors import FailedRunError

# fields of a protocol that make features, and libraries that only distances between them use
_OF_FEATURES, _OF_DISTANCES = (
    ("features", "weights", "pixels", "precision"),
    ("scipy", "torchmetrics"),
)
BATCH = 16  # pictures that a metric gets at a time; another number would round otherwise


class Source(NamedTuple):
    """Pictures, and what reads one of them.

    name: "drawn", or the hash of a reference; features are kept under it.
    """

    name: str
    pictures: Sequence[Picture]
    read: Callable[[Picture], Image.Image]


def score(
    metric: PictureMetric, source: Source, texts: Sequence[str], journal: Journal
) -> list[Scores]:
    """Return the scores of all pictures by column, in order; a column has a score of every picture.

    texts: the original prompt of each picture.

    Raises:
        InputError: a picture changed, or the metric cannot have it, such as a judge of scenes that
            is given another caption.
        FailedRunError: a score is not a finite number.
    """
    name, protocol = metric.name, digest(metric_protocol(metric.name, metric.protocol))
    files = [
        (picture.entry.file, picture.sha256, text)
        for picture, text in zip(source.pictures, texts, strict=True)
    ]
    known = [journal.scores(name, protocol, *file) for file in files]
    with progress.bar(len(files), f"score {name}", "picture") as bar:
        for rows in batches(len(files)):
            if all(known[i] is not None for i in rows):
                bar.update(len(rows))
                continue
            images = [source.read(source.pictures[i]) for i in rows]
            columns = metric.score(images, [texts[i] for i in rows])
            for place, i in enumerate(rows):
                known[i] = _finite(
                    {column: float(values[place]) for column, values in columns.items()},
                    metric,
                    files[i][0],
                )
            journal.write_scores(name, protocol, [(*files[i], known[i]) for i in rows])
            bar.update(len(rows))
    return known


def features(metric: SetMetric, source: Source, journal: Journal) -> np.ndarray:
    """Return the features of all pictures, [n, d], in order. Raises as `score`."""
    made_by, parts = digest(features_protocol(metric)), []
    what = f"features {metric.name}" + (" of the reference" if source.name != DRAWN else "")
    with progress.bar(len(source.pictures), what, "picture") as bar:
        for batch, rows in enumerate(batches(len(source.pictures))):
            some = [source.pictures[i] for i in rows]
            key = (made_by, source.name, batch)
            hashes = [picture.sha256 for picture in some]
            made = journal.features(key, hashes)
            if made is None:
                made = np.asarray(metric.features([source.read(picture) for picture in some]))
                if not np.isfinite(made).all():
                    raise FailedRunError(
                        f"{metric.name}: the features of {some[0].entry.file} or of its batch are"
                        " not finite numbers"
                    )
                journal.write_features(key, hashes, made)
            parts.append(made)
            bar.update(len(rows))
    return np.concatenate(parts)


def features_protocol(metric: SetMetric) -> Any:
    """Return what makes a metric's features; metrics that share it share the features."""
    if "features" not in metric.protocol:
        return {"metric": metric.name, **metric.protocol}
    made_by = {name: metric.protocol.get(name) for name in _OF_FEATURES}
    versions = metric.protocol.get("versions", {})
    return {
        **made_by,
        "versions": {name: one for name, one in versions.items() if name not in _OF_DISTANCES},
    }


DRAWN = "drawn"


def batches(count: int) -> Iterator[range]:
    """Yield the rows of each batch."""
    for begin in range(0, count, BATCH):
        yield range(begin, min(begin + BATCH, count))


def _finite(scores: dict[str, float], metric: PictureMetric, file: str) -> Scores:
    """Return the scores with None for NaN where the metric may leave a prompt out."""
    wild = [
        name
        for name, value in scores.items()
        if math.isinf(value) or (math.isnan(value) and metric.excluded is None)
    ]
    if wild:
        raise FailedRunError(f"{wild[0]} of {file} is not a finite number")
    return {name: None if math.isnan(value) else value for name, value in scores.items()}
