"""The distances of `distances` for many resamples of the drawn pictures, as a bootstrap takes them.

What does not depend on the resample is made once: the reference's factor, kernels, and distances
of pictures. Each function takes features [n, d] and [m, d], and returns a function of the numbers
of rows, which may recur.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cv3jax.evaluation.metrics.distances import (
    PRC,
    check_features,
    factor,
    frechet,
    kid,
    precision_recall,
    subsets,
)

MOST = 2**27  # numbers of a table that is kept, 1 GiB; for more, each resample begins anew
_BLOCK = 1024  # pictures of the reference at a time
Rows = np.ndarray


def figures_of(
    names: Sequence[str], distance: Callable, of_rows: Callable, least: int = 2
) -> tuple[Callable, Callable]:
    """Return (figures, of_rows) of a `SetMetric` from a distance and its function of rows.

    names: of the figures, one for each number that the distance returns. least: pictures that a
    set must have.
    """

    def named(found: Any) -> dict[str, float]:
        return dict(zip(names, np.atleast_1d(found).tolist(), strict=True))

    def figures(drawn: np.ndarray, reference: np.ndarray) -> dict[str, float]:
        check_features(drawn, reference, least)
        return named(distance(drawn, reference))

    def rows_of(drawn: np.ndarray, reference: np.ndarray) -> Callable[[Rows], dict[str, float]]:
        check_features(drawn, reference, least)
        found = of_rows(drawn, reference)
        return lambda rows: named(found(rows))

    return figures, rows_of


def frechet_of_rows(drawn: np.ndarray, reference: np.ndarray) -> Callable[[Rows], float]:
    """Return rows → the Fréchet distance.

    The pictures' components along the reference's factor are made once. A resample then takes the
    eigenvalues of a matrix of at most min(n, m, d)² numbers, whose small ones are exact to 1e-8 of
    the largest. The figure of all rows itself is that of `frechet`.
    """
    a, b = (np.asarray(each, np.float64) for each in (drawn, reference))
    middle, theirs = a.mean(0), factor(b)
    a, away = a - middle, middle - b.mean(0)
    spread, along, squares = float((theirs**2).sum()), a @ theirs.T, (a**2).sum(1)
    whole = np.arange(len(a))

    def distance(rows: Rows) -> float:
        if np.array_equal(rows, whole):
            return frechet(drawn, reference)
        some, times = np.unique(rows, return_counts=True)
        share, free = times / len(rows), len(rows) - 1
        mean = share @ a[some]
        ours = (times @ squares[some] - len(rows) * (mean @ mean)) / free
        product = (along[some] - share @ along[some]) * np.sqrt(times / free)[:, None]
        tall = len(product) > product.shape[1]
        values = np.linalg.eigvalsh(product.T @ product if tall else product @ product.T)
        difference = away + mean
        shared = np.sqrt(np.maximum(values, 0)).sum()
        return float(difference @ difference + ours + spread - 2 * shared)

    return distance


def kid_of_rows(drawn: np.ndarray, reference: np.ndarray) -> Callable[[Rows], float]:
    """Return rows → KID, over the subsets of `kid`."""
    a, b = (np.asarray(each, np.float64) for each in (drawn, reference))
    if len(a) ** 2 > MOST:
        return lambda rows: kid(drawn[rows], reference)
    kernel = _kernel(a, a)
    diagonal = np.diagonal(kernel)

    @functools.lru_cache(2)  # resamples of equal clusters have one number of rows
    def of_reference(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (rows of each subset, sums of kernels in the reference's, and to each picture)."""
        ours, theirs = (np.stack(each) for each in zip(*subsets(count, len(b)), strict=True))
        within = np.empty(len(theirs))
        for i, one in enumerate(theirs):
            found = _kernel(b[one], b[one])
            within[i] = found.sum() - np.trace(found)
        has = np.zeros((len(b), len(theirs)))
        has[theirs.T, np.arange(len(theirs))] = 1
        between = np.zeros((len(a), len(theirs)))
        for start in range(0, len(b), _BLOCK):
            between += _kernel(a, b[start : start + _BLOCK]) @ has[start : start + _BLOCK]
        return ours, within, between

    def distance(rows: Rows) -> float:
        ours, theirs, between = of_reference(len(rows))
        times = np.stack([np.bincount(rows[one], minlength=len(a)) for one in ours]).astype(float)
        size = ours.shape[1]
        within = ((times @ kernel) * times).sum(1) - times @ diagonal
        apart = (times * between.T).sum(1)
        values = (within + theirs) / (size * (size - 1)) - 2 * apart / size**2
        return float(values.mean())

    return distance


def precision_recall_of_rows(
    drawn: np.ndarray, reference: np.ndarray
) -> Callable[[Rows], tuple[float, float]]:
    """Return rows → (precision, recall)."""
    from scipy.spatial.distance import cdist

    a, b = (np.asarray(each, np.float64) for each in (drawn, reference))
    if len(a) * max(len(a), len(b)) > MOST or len(b) ** 2 > MOST:
        return lambda rows: precision_recall(drawn[rows], reference)
    k = PRC["neighbours"]
    among, apart = cdist(a, a), cdist(a, b)
    right = (apart <= np.partition(cdist(b, b), k, axis=1)[:, k]).any(1)

    def shares(rows: Rows) -> tuple[float, float]:
        some = np.unique(rows)
        radius = np.partition(among[some][:, rows], k, axis=1)[:, k]
        found = (apart[some] <= radius[:, None]).any(0)
        return float(right[rows].mean()), float(found.mean())

    return shares


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return KID's kernel of each two rows, [n, m]."""
    made = a @ b.T / a.shape[1] + 1
    return made * made * made
