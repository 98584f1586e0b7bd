"""Measure how often the intervals of cv3jax/evaluation/statistics hold the truth.

    python benchmarks/eval_statistics.py --json benchmarks/results/eval_statistics.json

Scores and votes are simulated, so the truth is known. An interval of 95 % holds it in 95 of 100
simulations. Tables: means of scores by numbers and sizes of clusters, paired differences, win
rates, ratings, agreement, and the power of planned numbers of votes.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import measure
import numpy as np
from simulated_votes import SCORES, SIZES, STRENGTHS, Votes, normal, skewed, tournament

from cv3jax.evaluation.statistics import agreement, bootstrap, bradley_terry, planning, win_rates

LOW, HIGH = 0.93, 0.97  # the bar of coverage
STUDIES = (  # two raters have no bar
    Votes(100, 2, 2, 0.5, 0.3, 0.3),
    Votes(100, 2, 2, 0.5, 0.0, 0.3),
    Votes(100, 3, 3, 2.0, 0.0, 0.3),
    Votes(100, 5, 5, 2.0, 0.0, 0.3),
    Votes(100, 5, 5, 2.0, 0.3, 0.3),
    Votes(50, 10, 10, 2.0, 0.0, 0.3),
    Votes(100, 3, 3, 0.5, 0.3, 0.3),
    Votes(100, 5, 5, 0.5, 0.3, 0.3),
    Votes(200, 5, 3, 0.5, 0.5, 0.3),
    Votes(50, 10, 4, 0.8, 0.3, 0.3),
    Votes(50, 10, 4, 0.0, 0.0, 0.0),
    Votes(20, 10, 10, 0.5, 0.3, 1.0),
    Votes(200, 10, 1, 0.3, 0.2, 0.2),
    Votes(200, 20, 5, 0.5, 0.5, 0.5),
    Votes(200, 50, 5, 0.5, 0.3, 1.5),
)
Row = dict[str, Any]


def holds(found: Any, truth: float) -> bool:
    """Return whether an interval holds the truth."""
    return found.low <= truth <= found.high


def share_of(count: int, one: Callable[[np.random.Generator], bool]) -> float:
    """Return the share of simulations in which something holds; each has a seed of its own."""
    return float(np.mean([one(np.random.default_rng(seed)) for seed in range(count)]))


def means(count: int, numbers: tuple[int, ...]) -> Iterator[Row]:
    """Yield the coverage of `mean_interval`, by scores, sizes and numbers of clusters."""
    for (name, draw), (sizes, of), clusters in (
        (score, size, clusters)
        for score in SCORES.items()
        for size in SIZES.items()
        for clusters in numbers
    ):

        def one(rng: np.random.Generator, draw=draw, of=of, clusters=clusters) -> bool:
            labels = np.repeat(np.arange(clusters), of(rng, clusters))
            seed = int(rng.integers(2**31))
            return holds(bootstrap.mean_interval(draw(rng, labels), labels, seed=seed), 0.0)

        row = {"scores": name, "sizes": sizes, "clusters": clusters}
        yield {**row, "coverage": share_of(count, one), "bar": clusters >= 20}


def pairs(count: int, numbers: tuple[int, ...]) -> Iterator[Row]:
    """Yield the coverage of `paired`, and how often its p is below 0.05 without a difference."""
    for clusters in numbers:
        low = []

        def one(rng: np.random.Generator, clusters=clusters, low=low) -> bool:
            labels = np.repeat(np.arange(clusters), SIZES["1 to 8"](rng, clusters))
            shared, seed = skewed(rng, labels), int(rng.integers(2**31))
            a, b = (shared + 0.5 * normal(rng, labels) for _ in range(2))
            found = bootstrap.paired(a, b, labels, seed=seed)
            low.append(found.p < 0.05)
            return holds(found, 0.0)

        row = {"clusters": clusters, "coverage": share_of(count, one)}
        yield {**row, "rejected": float(np.mean(low))}


def rates(count: int, studies: tuple[Votes, ...]) -> Iterator[Row]:
    """Yield the coverage of the interval of `win_rate` for any raters, and its mean width."""
    for study in studies:
        widths = []

        def one(rng: np.random.Generator, study=study, widths=widths) -> bool:
            found = win_rates.win_rate(*study.draw(rng), draws=20)
            widths.append(found.any.high - found.any.low)
            return holds(found.any, study.truth)

        row = {**study._asdict(), "truth": study.truth, "coverage": share_of(count, one)}
        yield {**row, "width": float(np.mean(widths)), "bar": study.raters > 2}


def ratings(count: int, sizes: tuple[tuple[int, int], ...]) -> Iterator[Row]:
    """Yield the coverage of the intervals of ratings, and the mean error of ratings."""
    for prompts, raters in sizes:
        hits, errors = [], []
        for seed in range(count):
            rng = np.random.default_rng(seed)
            found = bradley_terry.rate("abcd", *tournament(rng, prompts, raters), draws=200)
            truth = dict(zip("abcd", STRENGTHS, strict=True))
            hits += [holds(row, truth[row.model]) for row in found.rows]
            errors += [abs(row.rating - truth[row.model]) for row in found.rows]
        row = {"prompts": prompts, "raters": raters, "coverage": float(np.mean(hits))}
        yield {**row, "error": float(np.mean(errors)), "bar": raters > 2}


def alphas(count: int, numbers: tuple[int, ...]) -> Iterator[Row]:
    """Yield the coverage of the interval of alpha; the truth is that of a million units."""

    def draw(rng: np.random.Generator, units: int) -> tuple[np.ndarray, np.ndarray]:
        kinds = rng.integers(3, size=units)[:, None]
        given = np.where(rng.random((units, 4)) < 0.6, kinds, rng.integers(3, size=(units, 4)))
        there = rng.random((units, 4)) < 0.8  # a fifth is missing
        return np.nonzero(there)[0], given[there]

    truth = agreement.alpha_of(agreement.counts_of(*draw(np.random.default_rng(1), 1_000_000)))
    for units in numbers:

        def one(rng: np.random.Generator, units=units) -> bool:
            return holds(agreement.krippendorff(*draw(rng, units), draws=300), truth)

        yield {"units": units, "truth": truth, "coverage": share_of(count, one)}


def powers(count: int) -> Iterator[Row]:
    """Yield the power that planned votes have in simulations in which the win rate is 55 %."""
    for prompts, raters, by_prompt, by_rater in (
        (800, 40, 0.0, 0.0),
        (400, 40, 0.7, 0.0),
        (400, 40, 0.7, 0.3),
    ):
        wide = Votes(20_000, 500, 4, by_prompt, by_rater, 0.0)
        odds = 0.1
        for _ in range(40):  # that give 55 %
            odds += 4 * (0.55 - wide._replace(odds=odds).truth)
        made = win_rates.win_rate(
            *wide._replace(odds=odds).draw(np.random.default_rng(0)), draws=20
        )
        ties = made.ties / (made.wins + made.ties + made.losses)
        design = planning.Design(
            prompts,
            raters,
            ties,
            made.prompt_icc if by_prompt else 0.0,
            made.rater_icc if by_rater else 0.0,
        )
        votes = planning.votes_needed(0.55, 0.8, design)
        each = max(round(votes / prompts), 1)
        study = Votes(round(votes / each), raters, each, by_prompt, by_rater, odds)

        def one(rng: np.random.Generator, study=study) -> bool:
            return win_rates.win_rate(*study.draw(rng), draws=20).any.low > 0.5

        asked = dataclasses.replace(design, prompts=study.prompts)
        row = {"votes": study.prompts * each, **study._asdict()}
        planned = asked.power(study.prompts * each, 0.55)
        yield {**row, "planned": planned, "power": share_of(count, one)}


# each with its second argument; the longest first
PARTS = {
    "means": (means, (10, 20, 50, 200)),
    "ratings": (ratings, ((100, 2), (100, 4), (50, 10), (60, 30))),
    "rates": (rates, STUDIES),
    "powers": (powers, None),
    "alphas": (alphas, (20, 50, 200)),
    "pairs": (pairs, (20, 50, 200)),
}


def part(name: str, count: int) -> list[Row]:
    """Return the rows of a table."""
    function, sizes = PARTS[name]
    return list(function(count) if sizes is None else function(count, sizes))


def report(found: dict[str, list[Row]]) -> str:
    """Return all tables as Markdown."""
    heads = {
        "means": ("scores", "sizes", "clusters", "coverage"),
        "pairs": ("clusters", "coverage", "rejected"),
        "rates": (*Votes._fields, "truth", "coverage", "width"),
        "ratings": ("prompts", "raters", "coverage", "error"),
        "alphas": ("units", "truth", "coverage"),
        "powers": ("votes", *Votes._fields, "planned", "power"),
    }
    parts = []
    for name, head in heads.items():
        rows = [[_cell(row[key]) for key in head] for row in found[name]]
        parts.append(f"{name}\n\n{measure.table(head, rows)}")
    return "\n\n".join(parts)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def missed(found: dict[str, list[Row]]) -> list[str]:
    """Return the rows whose coverage is outside of the bar."""
    return [
        f"{name}: {row}"
        for name in ("means", "pairs", "rates", "ratings", "alphas")
        for row in found[name]
        if row.get("bar", True) and not LOW <= row["coverage"] <= HIGH
    ]


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--count", type=int, default=1000, metavar="N", help="simulations (default: %(default)s)"
    )
    parser.add_argument(
        "--processes", type=int, metavar="N", help="that share the work (default: one per core)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    if args.count < 1:
        parser.error("--count must be at least 1")
    count = args.count
    with ProcessPoolExecutor(args.processes) as pool:
        found = dict(zip(PARTS, pool.map(part, PARTS, [count] * len(PARTS)), strict=True))
    facts = measure.facts("numpy", "scipy")  # which starts JAX, whose threads no fork survives
    print(
        f"{report(found)}\n\n{count} simulations each, "
        + ", ".join(f"{key} {value}" for key, value in facts.items())
    )
    measure.write_json(args.json, {**facts, "count": count, **found})
    for line in missed(found):
        print(f"outside of {LOW:g}..{HIGH:g}: {line}")


if __name__ == "__main__":
    main()
