"""Ratings of several models from votes on pairs of them, ties included.

The model is Davidson's, "On Extending the Bradley-Terry Model to Accommodate Ties in Paired
Comparison Experiments", 1970: i wins over j with a share of πi, loses with πj, and ties with
nu √(πi πj), each divided by their sum. Without ties it is Bradley and Terry's. A rating is
400 log10 π, as Elo's: 400 points are ten wins for each loss. The mean of all ratings is 0.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.sparse import csgraph

from cv3jax.evaluation.statistics.bootstrap import effective, resampled
from cv3jax.evaluation.statistics.win_rates import OneWay, two_way

SCALE = 400 / np.log(10)  # points of a rating for one of log π
DRAWS = 500
_STEPS, _LONGEST = 60, 2.0  # of Newton's method, and of one of its steps
# Precision of a normal prior of log π and log nu. A resample may have a model that only wins, whose
# rating would be infinite; in the figures themselves the prior only keeps the sum of log π at 0.
_PRIOR, _NO_PRIOR = 1e-2, 1e-9


class Rating(NamedTuple):
    """A model's rating; low and high are None where there is but one prompt."""

    model: str
    rating: float
    low: float | None
    high: float | None
    votes: int


class Ratings(NamedTuple):
    """All ratings, the best first, and Davidson's nu: how likely ties are (0 without ties)."""

    rows: tuple[Rating, ...]
    ties: float


class UnratedError(ValueError):
    """Votes do not tell ratings: some models never won, lost or tied against the others."""


def rate(
    models: Sequence[str],
    pairs: np.ndarray,
    scores: np.ndarray,
    prompts: np.ndarray,
    raters: np.ndarray | None = None,
    *,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Ratings:
    """Return ratings from votes.

    pairs: int [n, 2], numbers of models. scores [n]: 1 where the first won, 0.5 for a tie, 0.
    prompts, raters: any numbers [n]. Intervals are by the bootstrap, clustered by prompt; with
    `raters` by both, as `win_rates` combines them. Its random numbers begin at seed 0.

    Raises UnratedError where no finite ratings fit best.
    """
    kinds = {pair: k for k, pair in enumerate(itertools.combinations(range(len(models)), 2))}
    first, second = pairs.min(1), pairs.max(1)
    kind = np.array([kinds[i, j] for i, j in zip(first, second, strict=True)])
    outcome = np.rint(2 * np.where(pairs[:, 0] == first, scores, 1 - scores)).astype(int)
    column = 3 * kind + outcome  # losses, ties, wins of the first of a pair
    table = np.bincount(column, minlength=3 * len(kinds)).astype(np.float64)
    _check(models, list(kinds), table.reshape(-1, 3))
    strengths, ties = _fit(len(models), list(kinds), table[None], _NO_PRIOR)
    best = np.append(strengths[0], ties[0])
    made = SCALE * strengths[0]
    widths = _widths(list(kinds), column, best, prompts, raters, draws, level)
    votes = np.bincount(pairs.ravel(), minlength=len(models))
    rows = [
        Rating(
            models[i],
            float(made[i]),
            None if widths is None else float(made[i] - SCALE * widths[i]),
            None if widths is None else float(made[i] + SCALE * widths[i]),
            int(votes[i]),
        )
        for i in np.argsort(-made, kind="stable")
    ]
    any_ties = table.reshape(-1, 3)[:, 1].any()
    return Ratings(tuple(rows), float(np.exp(ties[0])) if any_ties else 0.0)


def expected_score(difference: float, ties: float) -> float:
    """Return the win rate, ties half, that a difference of ratings and Davidson's nu give."""
    root = np.exp(difference / SCALE / 2)
    return float((root + ties / 2) / (root + ties + 1 / root))


def _check(models: Sequence[str], kinds: list[tuple[int, int]], table: np.ndarray) -> None:
    """Raise UnratedError unless every model is above every other by a chain of wins or ties."""
    above = np.zeros((len(models), len(models)))
    for (i, j), (lost, tied, won) in zip(kinds, table, strict=True):
        above[i, j], above[j, i] = won + tied, lost + tied
    count, parts = csgraph.connected_components(above, connection="strong")
    if count > 1:
        alone = [models[i] for i in np.flatnonzero(parts == np.bincount(parts).argmin())]
        raise UnratedError(
            f"{', '.join(alone)} won all or none of the votes against the others, or had none; no"
            " rating fits that"
        )


def _widths(
    kinds: list[tuple[int, int]],
    column: np.ndarray,
    best: np.ndarray,
    prompts: np.ndarray,
    raters: np.ndarray | None,
    draws: int,
    level: float,
) -> np.ndarray | None:
    """Return half of each interval, in log π, or None where there is but one prompt."""
    rng = np.random.default_rng(0)

    def spread(labels: np.ndarray) -> np.ndarray:
        """Return the variance of each log π when clusters are drawn anew, [models]."""
        tables = np.zeros((labels.max() + 1, 3 * len(kinds)))
        np.add.at(tables, (labels, column), 1)
        votes = resampled(len(tables), draws, rng) @ tables
        strengths, _ = _fit(len(best) - 1, kinds, votes, _PRIOR, best)
        # by percentiles, which a few resamples with a model that only wins do not move
        low, high = np.quantile(strengths, [0.025, 0.975], axis=0)
        inflated = len(tables) / (len(tables) - 1)
        return inflated * ((high - low) / (2 * stats.norm.ppf(0.975))) ** 2

    by_prompt = np.unique(prompts, return_inverse=True)[1]
    if by_prompt.max() < 1:
        return None
    if raters is None or len(set(np.asarray(raters).tolist())) < 2:
        variance, freedom = spread(by_prompt), effective(np.bincount(by_prompt)) - 1
        return np.sqrt(variance) * stats.t.ppf((1 + level) / 2, freedom)
    by_rater = np.unique(raters, return_inverse=True)[1]
    cells = np.unique(by_prompt * (by_rater.max() + 1) + by_rater, return_inverse=True)[1]
    labels = (by_prompt, by_rater, cells)
    parts = [[OneWay(v, each.max() + 1) for v in spread(each)] for each in labels]
    made = [two_way(*one, one[2].variance) for one in zip(*parts, strict=True)]
    return np.array(
        [np.sqrt(one.variance) * stats.t.ppf((1 + level) / 2, one.freedom) for one in made]
    )


def _fit(
    count: int,
    kinds: list[tuple[int, int]],
    tables: np.ndarray,
    prior: float,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (log π [draws, models] of mean 0, log nu [draws]) of votes [draws, 3 × pairs].

    The likelihood of losses, ties and wins is concave in both; Newton's method finds its maximum.
    start: log π and log nu that are near it; then a hundredth of a point is near enough.
    """
    design = np.zeros((len(kinds), 3, count + 1))
    for k, (i, j) in enumerate(kinds):
        design[k, 0, j] = design[k, 2, i] = design[k, 1, count] = 1.0
        design[k, 1, [i, j]] = 0.5
    votes = tables.reshape(len(tables), len(kinds), 3)
    free = np.full(count + 1, prior)
    if not votes[:, :, 1].any():  # without ties nu is 0, and log nu has no finite value
        free[count] = 1e12
    total, at = votes.sum(2), np.zeros((len(tables), count + 1))
    at[:, count] = -30.0 if free[count] > 1 else 0.0
    rest = np.where(np.arange(count + 1) == count, at[0, count], 0.0)
    if start is not None:
        at[:, :count] = start[:count]
        at[:, count] = at[:, count] if free[count] > 1 else start[count]
    for _ in range(_STEPS):
        logits = np.einsum("koi,di->dko", design, at)
        share = np.exp(logits - logits.max(2, keepdims=True))
        share /= share.sum(2, keepdims=True)
        slope = np.einsum("koi,dko->di", design, votes - total[..., None] * share)
        slope -= free * (at - rest)
        mean = np.einsum("koi,dko->dki", design, share)
        curve = np.einsum("dk,dko,koi,koj->dij", total, share, design, design, optimize=True)
        curve -= np.einsum("dk,dki,dkj->dij", total, mean, mean, optimize=True)
        step = np.linalg.solve(curve + np.diag(free), slope[..., None])[..., 0]
        longest = np.abs(step).max(1, keepdims=True)
        at = at + step * np.minimum(1.0, _LONGEST / np.maximum(longest, 1e-12))
        if longest.max() < (1e-9 if start is None else 5e-5):
            break
    strengths = at[:, :count]
    return strengths - strengths.mean(1, keepdims=True), at[:, count]
