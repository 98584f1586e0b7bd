"""The paired difference of a distance between sets, from the features that two reports keep."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cv3jax.evaluation.figures import LEVEL, Bootstrap, once
from cv3jax.evaluation.journal import Journal
from cv3jax.evaluation.metrics.base import SetMetric
from cv3jax.evaluation.metrics.registry import open_metric
from cv3jax.evaluation.protocol import digest, metric_protocol
from cv3jax.evaluation.reports import Report
from cv3jax.evaluation.scoring import DRAWN, batches, features_protocol
from cv3jax.evaluation.statistics.bootstrap import Paired, paired_of
from data_pipeline.io.errors import InputError


def paired_sets(
    name: str, ours: Report, theirs: Report, weights: Path | None, bootstrap: Bootstrap
) -> dict[str, Paired]:
    """Return the paired difference of each figure of a distance, ours minus theirs.

    Raises:
        InputError: the metric cannot be opened, is not what made the reports, or they do not hold
            its features.
    """
    metric = open_metric(name, weights)
    made_by = ours.content["metrics"][name]["scoring"]["metric"]
    if digest(metric_protocol(name, metric.protocol)) != digest(made_by):
        raise InputError("the reports were made with other weights or libraries than are here")
    reference = _reference(ours, metric)
    order = {(row["id"], row["copy"]): i for i, row in enumerate(theirs.rows)}
    turned = np.array([order[row["id"], row["copy"]] for row in ours.rows])
    first, second = (
        metric.resampling(drawn, reference)
        for drawn in (_drawn(ours, metric), _drawn(theirs, metric)[turned])
    )

    def differences(rows: np.ndarray) -> dict[str, float]:
        a, b = first(rows), second(rows)
        return {column: a[column] - b[column] for column in a}

    clusters = np.array([row["number"] for row in ours.rows])
    told = once(differences)
    return {
        column: paired_of(
            lambda rows, column=column: told(rows)[column],
            clusters,
            draws=bootstrap.of_sets(),
            seed=bootstrap.seed,
            level=LEVEL,
        )
        for column in told(np.arange(len(clusters)))
    }


def _drawn(report: Report, metric: SetMetric) -> np.ndarray:
    return _features(report, metric, DRAWN, [row["sha256"] for row in report.rows])


def _reference(report: Report, metric: SetMetric) -> np.ndarray:
    said = report.content["metrics"][metric.name]["scoring"]["reference"]
    return _features(report, metric, digest(said), None, said["count"])


def _features(
    report: Report,
    metric: SetMetric,
    part: str,
    hashes: Sequence[str] | None,
    count: int | None = None,
) -> np.ndarray:
    """Return the features of a part that a report's folder keeps, [n, d].

    hashes: those that its pictures must have; None: any, of `count` pictures.
    """
    journal, made_by = Journal(report.folder, repair=False), digest(features_protocol(metric))
    parts: list[Any] = []
    for batch, rows in enumerate(batches(len(hashes) if hashes is not None else count or 0)):
        some = None if hashes is None else [hashes[i] for i in rows]
        found = journal.features((made_by, part, batch), some)
        if found is None:
            raise InputError(f"{report.folder} does not hold the features")
        parts.append(found)
    return np.concatenate(parts)
