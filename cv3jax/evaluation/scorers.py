"""The metrics of a run's evaluations, by their names in `train.eval_metrics`.

A run takes `open_scorers` from its command, because training imports no metric.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.io.errors import InputError
from data_pipeline.scenes.judge import judge

JUDGE = "judge"
FIELD = "config.train.eval_metrics"


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A metric of a set of pictures.

    Attributes:
        name: as in `train.eval_metrics`.
        better: "higher" or "lower".
        score: (uint8 [N, H, W, 3], N prompts) → {name: value}.
    """

    name: str
    better: str
    score: Callable[[np.ndarray, Sequence[str]], dict[str, float]]


def open_scorers(
    names: Sequence[str], weights: Path | None, reference: Callable[[], np.ndarray]
) -> list[Scorer]:
    """Return the metrics of these names.

    weights: the directory that `cv3jax evaluate --weights` takes. reference: () → uint8 pictures
    [N, H, W, 3] with which metrics of sets compare.

    Raises:
        InputError: a metric is unknown, or its weights or the reference are missing.
    """
    return [_open(name, weights, reference) for name in names]


def _open(name: str, weights: Path | None, reference: Callable[[], np.ndarray]) -> Scorer:
    if name == JUDGE:
        return Scorer(JUDGE, "higher", judged)
    raise InputError(f"{FIELD}: there is no metric {name}; give {JUDGE}")


def judged(images: np.ndarray, prompts: Sequence[str]) -> dict[str, float]:
    """Return the share of pictures in which the judge of scenes finds each property right.

    The names are judge.count, judge.colour, …, judge.all, and from 128² on judge.detail.

    Raises:
        InputError: a prompt is no caption of the scenes' grammar.
    """
    try:
        said = [judge(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
    except InputError as e:
        raise InputError(f"{FIELD} = {JUDGE}: {e}; give other prompts or another metric") from e
    return {f"{JUDGE}.{name}": float(np.mean([one[name] for one in said])) for name in said[0]}
