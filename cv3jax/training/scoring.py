"""The interface of picture metrics to a run; commands pass in those of `cv3jax.evaluation`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np


class PictureScorer(Protocol):
    """A metric of drawn pictures."""

    name: str  # as train.eval_metrics has it
    better: str  # "higher" or "lower"
    protocol: str  # the hash of its weights, and of whatever else moves its figures

    def score(self, images: np.ndarray, prompts: Sequence[str]) -> dict[str, float]:
        """Return the figures of uint8 [N, H, W, 3], each named `name` or beginning with `name`."""


# (names, directory of weights, () → uint8 pictures that sets are compared with) → the metrics;
# raises InputError on an unknown metric, missing weights, or prompts that it cannot judge
OpenScorers = Callable[
    [Sequence[str], Path | None, Callable[[], np.ndarray]], Sequence[PictureScorer]
]
