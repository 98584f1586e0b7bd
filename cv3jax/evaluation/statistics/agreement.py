"""Krippendorff's alpha of nominal ratings: how far raters agree beyond chance.

From K. Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011. 1 is full agreement, 0 is
what chance gives, and below 0 they disagree more than by chance. Ratings may be missing.
"""

from typing import NamedTuple

import numpy as np

from cv3jax.evaluation.statistics.bootstrap import DRAWS, cut, resampled


class Agreement(NamedTuple):
    """Alpha with its interval by the bootstrap over units.

    Attributes:
        alpha: None where no unit has two ratings, or where all such ratings are equal: then
            nothing says what chance would give.
        low, high: None where alpha is, or where one unit has two ratings.
        units: that have two ratings or more.
        ratings: of those units.
    """

    alpha: float | None
    low: float | None
    high: float | None
    units: int
    ratings: int


def krippendorff(
    units: np.ndarray,
    ratings: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> Agreement:
    """Return the agreement of ratings [n] of units [n], any numbers each.

    A row is one rater's rating of one unit. A rating that is missing has no row. Raises ValueError
    on arrays of other lengths.
    """
    units, ratings = np.asarray(units), np.asarray(ratings)
    if units.shape != ratings.shape or units.ndim != 1:
        raise ValueError(f"{units.shape} units of {ratings.shape} ratings; give one of each")
    table = counts_of(units, ratings)
    found = alpha_of(table)
    count, total = len(table), int(table.sum())
    if found is None or count < 2:
        return Agreement(found, None, None, count, total)

    made = _resamples(table, draws, seed)
    low, high = cut(made - made.mean() + found, np.ones(count), level)
    return Agreement(found, low, min(high, 1.0), count, total)


def _resamples(table: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return alpha of resamples of units, float64 [draws].

    A resample in which all ratings are equal has no alpha; its raters agree, so it counts as 1.
    """
    weights = resampled(len(table), draws, np.random.default_rng(seed))
    size, kinds = table.sum(1), weights @ table
    total = kinds.sum(1)
    by_chance = (total**2 - (kinds**2).sum(1)) / (total - 1)
    seen = weights @ ((size**2 - (table**2).sum(1)) / (size - 1))
    return 1 - seen / np.where(by_chance > 0, by_chance, np.inf)


def counts_of(units: np.ndarray, ratings: np.ndarray) -> np.ndarray:
    """Return how often each unit has each rating, [units with two or more, kinds]."""
    if not len(units):
        return np.zeros((0, 1))
    rows, columns = (np.unique(one, return_inverse=True)[1] for one in (units, ratings))
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1)
    return table[table.sum(1) >= 2]


def alpha_of(table: np.ndarray) -> float | None:
    """Return alpha of counts [units, kinds], or None where chance cannot be told.

    Each unit has two ratings or more. The disagreement that is seen is that of pairs of ratings in
    a unit, each unit weighted by 1 / (ratings − 1); the one by chance is of all pairs of ratings.
    """
    total, kinds = table.sum(), table.sum(0)
    if total < 2:
        return None
    by_chance = (total**2 - (kinds**2).sum()) / (total - 1)
    if by_chance == 0:
        return None
    size = table.sum(1)
    seen = ((size**2 - (table**2).sum(1)) / (size - 1)).sum()
    return float(1 - seen / by_chance)
