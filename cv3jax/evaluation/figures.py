"""The figures of a report: means and distances with intervals, and what the pictures were drawn by.

Every interval is of a bootstrap that draws prompts, not pictures: the pictures of one prompt are
alike, so they are not independent.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cv3jax.evaluation.journal import Scores
from cv3jax.evaluation.metrics.base import PictureMetric, SetMetric
from cv3jax.evaluation.pictures import Picture
from cv3jax.evaluation.protocol import digest
from cv3jax.evaluation.statistics.bootstrap import Interval, interval_of, mean_interval

LEVEL = 0.95
SET_SHARE = 10  # a distance between sets gets a tenth of the draws, because each takes long


class Bootstrap(NamedTuple):
    """How intervals are made: the number of draws and their seed."""

    draws: int = 2000
    seed: int = 0

    def of_sets(self) -> int:
        """Return the draws of a distance between sets."""
        return max(self.draws // SET_SHARE, 20)

    def to_json(self) -> dict[str, Any]:
        """Return what a report says of its intervals."""
        return {
            "level": LEVEL,
            "draws": self.draws,
            "draws_of_sets": self.of_sets(),
            "seed": self.seed,
            "clusters": "prompts",
        }


class Scored(NamedTuple):
    """A metric's scores of all pictures, with the number and the category of their prompts."""

    scores: Sequence[Scores]
    clusters: np.ndarray  # [n], int
    categories: Sequence[str]


def of_pictures(
    metric: PictureMetric, scored: Scored, scoring: dict, drawing: dict, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return what report.json says of a metric that scores pictures, by column and category."""
    head = _head("picture", metric, scoring, drawing)
    rows = np.arange(len(scored.scores))

    def means(some: np.ndarray) -> dict[str, dict]:
        columns = {}
        for name in common(scored.scores):
            values = np.array([_number(scored.scores[i][name]) for i in some], np.float64)
            there = np.isfinite(values)
            if there.any():
                found = mean_interval(
                    values[there],
                    scored.clusters[some][there],
                    draws=bootstrap.draws,
                    seed=bootstrap.seed,
                    level=LEVEL,
                )
                columns[name] = _figure(found, head["sha256"])
        return columns

    names = np.array(scored.categories)
    kinds = list(dict.fromkeys(scored.categories))
    by_category = {kind: means(rows[names == kind]) for kind in kinds} if len(kinds) > 1 else {}
    if metric.excluded is not None:
        head["left_out"] = {
            "why": metric.excluded,
            "pictures": sum(None in one.values() for one in scored.scores),
        }
    return {**head, "figures": means(rows), "categories": by_category}


def of_sets(
    metric: SetMetric,
    drawn: np.ndarray,
    reference: np.ndarray,
    clusters: np.ndarray,
    described: tuple[dict, dict],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Return what report.json says of a distance between sets.

    Args:
        metric: the distance.
        drawn: the features of the pictures, [n, d].
        reference: those of the reference, [m, d].
        clusters: [n], the number of each drawn picture's prompt.
        described: the scoring protocol and the drawing.
        bootstrap: how intervals are made.
    """
    head = _head("set", metric, *described)
    found = intervals(metric.resampling(drawn, reference), clusters, len(drawn), bootstrap)
    figures = {name: _figure(one, head["sha256"]) for name, one in found.items()}
    return {**head, "figures": figures, "categories": {}}


def intervals(
    figures: Callable[[np.ndarray], dict[str, float]],
    clusters: np.ndarray,
    count: int,
    bootstrap: Bootstrap,
) -> dict[str, Interval]:
    """Return the interval of each of several figures that the same rows have.

    figures: row numbers of `count` pictures → {name: value}; it is asked once for each draw.
    """
    told = once(figures)
    return {
        name: interval_of(
            lambda rows, name=name: told(rows)[name],
            clusters,
            draws=bootstrap.of_sets(),
            seed=bootstrap.seed,
            level=LEVEL,
        )
        for name in told(np.arange(count))
    }


def once(figures: Callable[[np.ndarray], dict[str, float]]) -> Callable:
    """Return the function with its results kept, so that each set of rows is asked for once."""
    known: dict[bytes, dict[str, float]] = {}

    def asked(rows: np.ndarray) -> dict[str, float]:
        key = np.asarray(rows).tobytes()
        if key not in known:
            known[key] = figures(np.asarray(rows))
        return known[key]

    return asked


def common(scores: Sequence[Scores]) -> list[str]:
    """Return the columns that every picture has; a judge sees detail in large pictures alone."""
    return [name for name in scores[0] if all(name in one for one in scores)]


def _head(
    kind: str, metric: PictureMetric | SetMetric, scoring: dict, drawing: dict
) -> dict[str, Any]:
    return {
        "kind": kind,
        "better": metric.better,
        "scoring": scoring,
        "scoring_sha256": digest(scoring),
        "sha256": digest({"scoring": scoring, "drawing": drawing}),
    }


def _figure(found: Interval, protocol: str) -> dict[str, Any]:
    return {
        "value": float(found.value),
        "low": found.low,
        "high": found.high,
        "n": int(found.n),
        "prompts": int(found.clusters),
        "protocol": protocol,
    }


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def drawing_of(pictures: Iterable[Picture]) -> dict[str, Any]:
    """Return what made the pictures, as their PNGs say it.

    A field is a list where the pictures differ in it, with None for pictures that do not say.
    """
    pictures = list(pictures)
    expansions = [picture.entry.expansion for picture in pictures]
    told = [
        None if one is None else {"model": one.model, "template_sha256": one.template_sha256}
        for one in expansions
    ]
    return {
        "made_by": _distinct([picture.record for picture in pictures]),
        "expanded_by": _distinct(told),
        "not_expanded_after_all": sum(bool(one and one.fallback) for one in expansions),
        "size": _distinct([list(picture.size) for picture in pictures]),
    }


def _distinct(values: list[Any]) -> Any:
    """Return the value that all are, or the list of the different ones."""
    found = list({digest(value): value for value in values}.values())
    return found[0] if len(found) == 1 else found
