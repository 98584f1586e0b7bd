"""What a metric is: a score for each picture, or a distance between two sets of pictures.

A protocol is a dict that JSON can hold. It has whatever moves a score: the SHA-256 of the weights,
the resize and the crop, the prompt's prefix, and the versions of the libraries.
"""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL.Image import Image

BATCH = 16  # pictures in the network at a time


@dataclasses.dataclass(frozen=True)
class PictureMetric:
    """A metric that scores each picture.

    Attributes:
        name: as in the registry.
        better: "higher" or "lower".
        protocol: see the module.
        score: (n RGB pictures, n prompts) → {column: float64 [n]}. NaN where a prompt asks for
            nothing that the metric could measure; `excluded` says when.
        excluded: the words for a report about those NaN, or None where there are none.
        check: raises InputError on prompts that the metric does not take, before any is drawn.
    """

    name: str
    better: str
    protocol: dict[str, Any]
    score: Callable[[Sequence[Image], Sequence[str]], dict[str, np.ndarray]]
    excluded: str | None = None
    check: Callable[[Sequence[str]], None] = lambda prompts: None


@dataclasses.dataclass(frozen=True)
class SetMetric:
    """A metric that compares a set of drawn pictures with a reference set.

    Attributes:
        name: as in the registry.
        better: "higher" or "lower".
        protocol: see the module. Metrics with the same `protocol["features"]` have the same
            features.
        features: n RGB pictures → float32 [n, d].
        figures: (features of drawn pictures, features of the reference) → {column: value}.
        least: how many pictures `figures` takes at least in each set.
        of_rows: (features of drawn pictures, of the reference) → a function: numbers of rows, which
            may recur → `figures` of these drawn pictures; None: `figures` itself is as quick.
    """

    name: str
    better: str
    protocol: dict[str, Any]
    features: Callable[[Sequence[Image]], np.ndarray]
    figures: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    least: int = 2
    of_rows: Callable[[np.ndarray, np.ndarray], Callable] | None = None

    def resampling(
        self, drawn: np.ndarray, reference: np.ndarray
    ) -> Callable[[np.ndarray], dict[str, float]]:
        """Return a function: numbers of rows of `drawn` → `figures` of them, for a bootstrap."""
        if self.of_rows is None:
            return lambda rows: self.figures(drawn[rows], reference)
        return self.of_rows(drawn, reference)


Metric = PictureMetric | SetMetric


def versions(*packages: str) -> dict[str, str]:
    """Return {package: its installed version}, by the packages' names on PyPI."""
    return {name: importlib.metadata.version(name) for name in packages}


def batches(count: int, size: int = BATCH) -> Iterator[slice]:
    """Yield the slices that cut 0..count into batches of at most `size`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
