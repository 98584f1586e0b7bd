"""Comparing two reports over the same prompts by a paired bootstrap, if their protocols agree."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cv3jax.evaluation.compare_sets import paired_sets
from cv3jax.evaluation.figures import LEVEL, Bootstrap
from cv3jax.evaluation.protocol import differences, refusal
from cv3jax.evaluation.reports import FORMAT, Report
from cv3jax.evaluation.statistics.bootstrap import Paired, paired
from data_pipeline.io.errors import InputError


def compare(
    ours: Report,
    theirs: Report,
    metrics: Sequence[str] | None,
    bootstrap: Bootstrap,
    weights: Path | None = None,
) -> dict[str, Any]:
    """Return what two reports differ by: ours minus theirs, for each figure that both have.

    metrics: those to compare; None: all that both have. weights: the folder of the metrics'
    weights, with which the differences of distances between sets get intervals.

    Raises:
        InputError: their protocols are unlike, which names the fields, or no metric is in both.
    """
    a, b = ours.content["metrics"], theirs.content["metrics"]
    names = [name for name in a if name in b] if metrics is None else list(metrics)
    if missing := [name for name in names if name not in a or name not in b]:
        where = theirs if missing[0] in a else ours
        raise InputError(f"--metrics {missing[0]}: {where.folder} has no scores of it")
    if not names:
        raise InputError(
            f"no metric is in both: {ours.folder} has {', '.join(a)}, and {theirs.folder} has"
            f" {', '.join(b)}"
        )
    for name in names:
        if lines := differences(a[name]["scoring"], b[name]["scoring"]):
            raise InputError(f"not comparable: {refusal(name, lines)}")
    if _pictures(ours) != _pictures(theirs):
        raise InputError(f"not comparable: {ours.folder} and {theirs.folder} have other pictures")
    compared, without = {}, {}
    for name in names:
        if a[name]["kind"] == "picture":
            compared[name] = _picture_metric(name, ours, theirs, bootstrap)
        else:
            try:
                made = paired_sets(name, ours, theirs, weights, bootstrap)
            except InputError as e:
                made, without[name] = {}, str(e)
            compared[name] = _set_metric(name, ours, theirs, made)
    return {
        "format": FORMAT,
        "a": str(ours.folder),
        "b": str(theirs.folder),
        "bootstrap": bootstrap.to_json(),
        "drawing": differences(ours.content["drawing"], theirs.content["drawing"]),
        "only_one_has": sorted(a.keys() ^ b.keys()),
        "without_interval": without,
        "metrics": compared,
    }


def _pictures(report: Report) -> set[tuple[str, int]]:
    return {(row["id"], row["copy"]) for row in report.rows}


def _picture_metric(
    name: str, ours: Report, theirs: Report, bootstrap: Bootstrap
) -> dict[str, dict]:
    """Return the paired difference of each column of a metric; pictures pair by prompt and copy."""
    a, b = (report.content["metrics"][name] for report in (ours, theirs))
    pairs = {(row["id"], row["copy"]): row for row in theirs.rows}
    compared = {}
    for column in a["figures"]:
        if column not in b["figures"]:
            continue
        rows = []
        for row in ours.rows:
            other = pairs[row["id"], row["copy"]]
            values = row["scores"][column], other["scores"][column]
            if None not in values:
                rows.append((row["number"], *values))
        clusters, first, second = (np.array(each) for each in zip(*rows, strict=True))
        found = paired(
            first,
            second,
            clusters,
            draws=bootstrap.draws,
            seed=bootstrap.seed,
            level=LEVEL,
        )
        compared[column] = _row(a, b, column, found)
    return compared


def _set_metric(
    name: str, ours: Report, theirs: Report, made: dict[str, Paired]
) -> dict[str, dict]:
    """Return the difference of each figure of a distance; `made` has those with intervals."""
    a, b = (report.content["metrics"][name] for report in (ours, theirs))
    compared = {}
    for column, figure in a["figures"].items():
        if column in b["figures"]:
            alone = figure["value"] - b["figures"][column]["value"]
            found = Paired(alone, None, None, None, figure["prompts"], figure["n"])
            compared[column] = _row(a, b, column, made.get(column, found))
    return compared


def _row(a: dict[str, Any], b: dict[str, Any], column: str, found: Paired) -> dict[str, Any]:
    return {
        "better": a["better"],
        "a": a["figures"][column],
        "b": b["figures"][column],
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "n": found.n,
    }
