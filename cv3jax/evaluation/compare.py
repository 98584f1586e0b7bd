"""Comparing two reports over the same prompts by a paired bootstrap, if their protocols agree."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cv3jax.evaluation.figures import LEVEL, Bootstrap
from cv3jax.evaluation.protocol import differences, refusal
from cv3jax.evaluation.statistics.bootstrap import paired
from data_pipeline.io.bounded_json import OWN, ParseError, parse_json, read_bytes
from data_pipeline.io.errors import InputError, raise_machine

REPORT, SCORES, FORMAT = "report.json", "scores.jsonl", 1


class Report(NamedTuple):
    """A report that `cv3jax evaluate` wrote: its folder, report.json, and scores.jsonl's rows."""

    folder: Path
    content: dict[str, Any]
    rows: list[dict[str, Any]]


def read_report(place: Path) -> Report:
    """Return the report in a folder, or beside a report.json.

    Raises InputError where there is none, it is damaged, or its scores are not the report's.
    """
    folder = place.parent if place.name == REPORT else place
    try:
        content = parse_json(read_bytes(folder / REPORT, OWN.bytes))
        data = read_bytes(folder / SCORES, OWN.bytes)
        rows = [parse_json(line) for line in data.splitlines()]
    except OSError as e:
        raise_machine(e, folder)
        raise InputError(
            f"--compare {place} has no report ({e.strerror}: {Path(e.filename or '').name}); give"
            " the --out of a cv3jax evaluate that has ended"
        ) from e
    except ParseError as e:
        raise InputError(f"--compare {place}: its report is damaged ({e}); evaluate again") from e
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"--compare {place}: {REPORT} is not a report of format {FORMAT}")
    if hashlib.sha256(data).hexdigest() != content["scores"]["sha256"]:
        raise InputError(
            f"--compare {place}: {SCORES} is not the one that {REPORT} is of; evaluate again"
        )
    return Report(folder, content, rows)


def compare(
    ours: Report, theirs: Report, metrics: Sequence[str] | None, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return what two reports differ by: ours minus theirs, for each figure that both have.

    metrics: those to compare; None: all that both have.

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
    return {
        "format": FORMAT,
        "a": str(ours.folder),
        "b": str(theirs.folder),
        "bootstrap": bootstrap.to_json(),
        "drawing": differences(ours.content["drawing"], theirs.content["drawing"]),
        "only_one_has": sorted(a.keys() ^ b.keys()),
        "metrics": {
            name: _picture_metric(name, ours, theirs, bootstrap)
            if a[name]["kind"] == "picture"
            else _set_metric(name, ours, theirs)
            for name in names
        },
    }


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
        compared[column] = {
            "better": a["better"],
            "a": a["figures"][column],
            "b": b["figures"][column],
            "difference": float(found.difference),
            "low": found.low,
            "high": found.high,
            "p": found.p,
            "n": len(rows),
        }
    return compared


def _set_metric(name: str, ours: Report, theirs: Report) -> dict[str, dict]:
    """Return the difference of each figure of a distance between sets.

    Each has an interval of its own; the difference has none, because a report does not hold the
    features.
    """
    a, b = (report.content["metrics"][name] for report in (ours, theirs))
    return {
        column: {
            "better": a["better"],
            "a": figure,
            "b": b["figures"][column],
            "difference": figure["value"] - b["figures"][column]["value"],
            "low": None,
            "high": None,
            "p": None,
            "n": figure["n"],
        }
        for column, figure in a["figures"].items()
        if column in b["figures"]
    }
