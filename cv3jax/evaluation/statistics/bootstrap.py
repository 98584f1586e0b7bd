"""Intervals and paired comparisons by a bootstrap over clusters.

Pictures of one prompt are alike, so a resample takes whole prompts. Percentiles of resamples are
too near each other where clusters are few. So the tails that are cut off are smaller, by Student's
t distribution with the effective number of clusters, (Σ size)² / Σ size² (the expanded percentile
interval of Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, section 4.5, which
takes the number of values there). benchmarks/eval_statistics.py measures the coverage.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

DRAWS = 2000
_MOST = 2**24  # values of a block of resamples
Statistic = Callable[[np.ndarray], float]


class Interval(NamedTuple):
    """A figure with its interval; `low` and `high` are None where there is but one cluster."""

    value: float
    low: float | None
    high: float | None
    clusters: int
    n: int


class Paired(NamedTuple):
    """A difference of two systems on the same clusters, its interval, and p of no difference.

    All but the difference are None where there is but one cluster.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    clusters: int
    n: int


def mean_interval(
    values: np.ndarray,
    clusters: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the mean of `values` [n] with its interval; rows of equal `clusters` [n] go together.

    clusters: any numbers. Raises ValueError on arrays of other lengths, without a row, or with a
    value that is not finite.
    """
    values, labels, sizes = _checked(values, clusters)
    found = float(values.mean())
    if len(sizes) < 2:
        return Interval(found, None, None, len(sizes), len(values))
    low, high = cut(_mean_draws(values, labels, sizes, draws, seed), sizes, level)
    return Interval(found, low, high, len(sizes), len(values))


def interval_of(
    statistic: Statistic,
    clusters: np.ndarray,
    *,
    draws: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return a figure of a whole set, such as a Fréchet distance, with its interval.

    statistic: takes the numbers of rows, some of them more than once, and returns a figure. A
    resample repeats pictures, which by itself moves such a figure, so the resamples are shifted
    until their mean is the figure of all rows. The interval is of the figure at this number of
    pictures. Raises ValueError as `mean_interval` does.
    """
    found, shifted, sizes, count = _set_draws(statistic, clusters, draws, seed)
    if shifted is None:
        return Interval(found, None, None, len(sizes), count)
    return Interval(found, *cut(shifted, sizes, level), len(sizes), count)


def paired(
    values_a: np.ndarray,
    values_b: np.ndarray,
    clusters: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> Paired:
    """Return mean(a) − mean(b) of values [n] of the same rows, with its interval and p.

    p is two-sided, of no difference. It is below 1 − level where the interval leaves out 0, to
    within one resample. With 2,000 resamples its least value is about 0.001.
    Raises ValueError as `mean_interval` does.
    """
    a, b = np.asarray(values_a, np.float64), np.asarray(values_b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape} values; give one of each row")
    values, labels, sizes = _checked(a - b, clusters)
    found = float(values.mean())
    if len(sizes) < 2:
        return Paired(found, None, None, None, len(sizes), len(values))
    made = _mean_draws(values, labels, sizes, draws, seed)
    return Paired(found, *cut(made, sizes, level), _p(made, sizes), len(sizes), len(values))


def paired_of(
    difference: Statistic,
    clusters: np.ndarray,
    *,
    draws: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> Paired:
    """Return the difference of a figure of two whole sets, with its interval and p.

    difference: as the statistic of `interval_of`; it takes the same rows of both sets.
    """
    found, shifted, sizes, count = _set_draws(difference, clusters, draws, seed)
    if shifted is None:
        return Paired(found, None, None, None, len(sizes), count)
    return Paired(found, *cut(shifted, sizes, level), _p(shifted, sizes), len(sizes), count)


def effective(sizes: np.ndarray) -> float:
    """Return the effective number of clusters; of equal sizes it is their number."""
    return max(float(sizes.sum()) ** 2 / float((sizes.astype(np.float64) ** 2).sum()), 2.0)


def resampled(count: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each of `count` clusters is in each resample, int [draws, count]."""
    chosen = rng.integers(count, size=(draws, count)) + count * np.arange(draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=draws * count).reshape(draws, count)


def cut(made: np.ndarray, sizes: np.ndarray, level: float) -> tuple[float, float]:
    """Return the expanded percentiles of resamples, as the module says."""
    count = effective(sizes)
    t = stats.t.ppf((1 + level) / 2, count - 1)
    tail = float(stats.norm.cdf(-np.sqrt(count / (count - 1)) * t))
    low, high = np.quantile(made, [tail, 1 - tail])
    return float(low), float(high)


def _checked(values: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (values, the number of each row's cluster from 0 on, rows of each cluster)."""
    values, clusters = np.asarray(values, np.float64), np.asarray(clusters)
    if values.ndim != 1 or values.shape != clusters.shape or not len(values):
        raise ValueError(f"{values.shape} values of {clusters.shape} clusters; give one of each")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    _, labels = np.unique(clusters, return_inverse=True)
    return values, labels, np.bincount(labels)


def _mean_draws(
    values: np.ndarray, labels: np.ndarray, sizes: np.ndarray, draws: int, seed: int
) -> np.ndarray:
    """Return the means of resamples, float64 [draws]."""
    rng, sums = np.random.default_rng(seed), np.bincount(labels, values)
    block, made = max(_MOST // len(sizes), 1), []
    for start in range(0, draws, block):
        weights = resampled(len(sizes), min(block, draws - start), rng)
        made.append((weights @ sums) / (weights @ sizes))
    return np.concatenate(made)


def _set_draws(
    statistic: Statistic, clusters: np.ndarray, draws: int, seed: int
) -> tuple[float, np.ndarray | None, np.ndarray, int]:
    """Return (the figure, shifted figures of resamples or None, rows of each cluster, rows)."""
    clusters = np.asarray(clusters)
    _, labels, sizes = _checked(np.zeros(len(clusters)), clusters)
    found = float(statistic(np.arange(len(labels))))
    if len(sizes) < 2:
        return found, None, sizes, len(labels)
    rows = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    rng, made = np.random.default_rng(seed), np.empty(draws)
    for i in range(draws):
        made[i] = statistic(
            np.concatenate([rows[k] for k in rng.integers(len(rows), size=len(rows))])
        )
    return found, made - made.mean() + found, sizes, len(labels)


def _p(made: np.ndarray, sizes: np.ndarray) -> float:
    """Return the two-sided p whose interval, as `cut` makes it, ends at 0."""
    count = effective(sizes)
    # half of a resample at 0 itself counts on each side
    below = (np.sum(made < 0) + np.sum(made == 0) / 2 + 0.5) / (len(made) + 1)
    z = -float(stats.norm.ppf(min(below, 1 - below)))
    return float(min(2 * stats.t.sf(z * np.sqrt((count - 1) / count), count - 1), 1.0))
