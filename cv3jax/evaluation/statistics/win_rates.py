"""Win rates of votes, with intervals for these raters and for any raters.

A vote is 1 for a win, 0.5 for a tie and 0 for a loss. Votes on one prompt are alike, and so are
votes of one rater. `these` is the interval for new prompts and the same raters, by the bootstrap
over prompts. `any` is for new prompts and new raters, from the two-way cluster-robust variance of
Cameron, Gelbach and Miller, "Robust Inference With Multiway Clustering", 2011, Eq. 2.11: that by
prompt, plus that by rater, less that of cells of both. It is on the scale of log odds, with
Student's t.

With few raters the formula is low: their sums are around the mean of the votes themselves. The
larger of it and the variance by prompt is high, because it is a maximum. So a part of the way from
one to the other is gone (`TOWARDS`). Degrees of freedom are Satterthwaite's, of the three
variances, and no fewer than those of the fewer clusters. benchmarks/eval_statistics.py measures the
coverage.
"""

from typing import NamedTuple

import numpy as np
from scipy import special, stats

from cv3jax.evaluation.statistics.bootstrap import DRAWS, Interval, mean_interval

TOWARDS = 0.25
# The two-way variance is a difference, and may be near zero or below by chance. This share of the
# variance of independent votes is its least.
LEAST = 0.3


class WinRate(NamedTuple):
    """A win rate: (wins + ties / 2) / votes, in 0..1.

    Attributes:
        wins, ties, losses: how many votes.
        rate: the win rate.
        these: the interval for new prompts and these raters.
        any: the interval for new prompts and new raters; without ends where there is one rater.
        p: two-sided, of a rate of 0.5, for new prompts and new raters; None with one rater.
        design_effect: how many of these votes tell as much as an independent one; None as p.
        prompt_icc, rater_icc: intraclass correlation of votes on one prompt and of one rater, 0..1,
            as `planning` takes it; None where no prompt or no rater has two votes, or all are
            equal.
    """

    wins: int
    ties: int
    losses: int
    rate: float
    these: Interval
    any: Interval
    p: float | None
    design_effect: float | None
    prompt_icc: float | None
    rater_icc: float | None


class OneWay(NamedTuple):
    """The variance of a mean by one kind of clusters, and how many of them there are."""

    variance: float
    clusters: int


class TwoWay(NamedTuple):
    """The variance of a mean by prompts and raters, and its degrees of freedom."""

    variance: float
    freedom: float


def win_rate(
    scores: np.ndarray,
    prompts: np.ndarray,
    raters: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> WinRate:
    """Return the win rate of votes [n] in {0, 0.5, 1}, by any numbers of prompts and raters [n].

    Raises ValueError on other votes, and on none.
    """
    scores = np.asarray(scores, np.float64)
    if not np.isin(scores, (0.0, 0.5, 1.0)).all():
        raise ValueError("a vote is 0, 0.5 or 1")
    these = mean_interval(scores, prompts, draws=draws, seed=seed, level=level)
    prompts, raters = (np.unique(one, return_inverse=True)[1] for one in (prompts, raters))
    counts = [int(np.sum(scores == one)) for one in (1.0, 0.5, 0.0)]
    rate, people = float(scores.mean()), int(raters.max()) + 1
    fewer = min(these.clusters, people)
    if these.clusters > 1:
        these = _certain(these, these.clusters, level)
    alike = [_intraclass(scores - rate, labels) for labels in (prompts, raters)]
    if fewer < 2:
        any_ = Interval(rate, None, None, fewer, len(scores))
        return WinRate(*counts, rate, these, any_, None, None, *alike)
    found = two_way_of(scores, prompts, raters)
    any_, p = _logit_interval(rate, found, level, fewer, len(scores))
    alone = float(scores.var()) / len(scores)
    effect = found.variance / alone if alone else None
    return WinRate(*counts, rate, these, any_, p, effect, *alike)


def two_way_of(values: np.ndarray, prompts: np.ndarray, raters: np.ndarray) -> TwoWay:
    """Return the variance of the mean of values [n], two-way clustered.

    prompts, raters: numbers from 0 on. There are two of each at least.
    """
    errors = values - values.mean()
    cells = np.unique(prompts * (raters.max() + 1) + raters, return_inverse=True)[1]
    alone = float((errors**2).sum() / len(values) ** 2)
    parts = (
        OneWay(_one_way(errors, labels), int(labels.max()) + 1)
        for labels in (prompts, raters, cells)
    )
    return two_way(*parts, alone)


def two_way(prompt: OneWay, rater: OneWay, cell: OneWay, alone: float) -> TwoWay:
    """Return the two-way variance from the one-way ones and that of independent votes.

    There are two clusters of each kind at least.
    """
    low = max(prompt.variance + rater.variance - cell.variance, LEAST * alone)
    total = low + TOWARDS * max(prompt.variance - low, 0.0)
    least = min(prompt.clusters, rater.clusters) - 1
    parts = sum(one.variance**2 / (one.clusters - 1) for one in (prompt, rater, cell))
    return TwoWay(total, max(total**2 / parts, least) if parts else least)


def _one_way(errors: np.ndarray, labels: np.ndarray) -> float:
    sums = np.bincount(labels, errors)
    return float(len(sums) / max(len(sums) - 1, 1) * (sums**2).sum() / len(errors) ** 2)


def _intraclass(errors: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the correlation of two votes of one cluster, 0..1, or None without such votes.

    It is that of the one-way variance: n × variance of the mean = σ² (1 + (m − 1) ρ), where m is
    the mean number of votes that a vote's cluster has.
    """
    m, variance = float((np.bincount(labels) ** 2).sum()) / len(errors), float((errors**2).mean())
    if m <= 1 or variance == 0 or labels.max() < 1:
        return None
    found = (_one_way(errors, labels) * len(errors) / variance - 1) / (m - 1)
    return float(np.clip(found, 0.0, 1.0))


def _logit_interval(
    rate: float, found: TwoWay, level: float, clusters: int, n: int
) -> tuple[Interval, float]:
    """Return (the interval of a rate on the scale of log odds, p of a rate of 0.5)."""
    if rate in (0.0, 1.0):
        made = _certain(Interval(rate, rate, rate, clusters, n), clusters, level)
        return made, float(min(2 * 0.5**clusters, 1.0))
    deviation = np.sqrt(found.variance) / (rate * (1 - rate))
    middle, t = special.logit(rate), stats.t.ppf((1 + level) / 2, found.freedom)
    low, high = special.expit([middle - t * deviation, middle + t * deviation])
    p = 1.0 if deviation == 0 else 2 * stats.t.sf(abs(middle) / deviation, found.freedom)
    return Interval(rate, float(low), float(high), clusters, n), float(p)


def _certain(found: Interval, clusters: int, level: float) -> Interval:
    """Return an interval with ends where all votes are equal: that of so many clusters alike.

    No resample of such votes differs. The exact binomial interval of `clusters` wins in as many
    tries is from ((1 − level) / 2)^(1 / clusters) to 1.
    """
    end = ((1 - level) / 2) ** (1 / clusters)
    if found.value == 1.0:
        return found._replace(low=end, high=1.0)
    return found._replace(low=0.0, high=1 - end) if found.value == 0.0 else found
