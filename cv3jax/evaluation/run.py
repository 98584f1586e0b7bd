"""One evaluation: pictures, their scores, and the report."""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cv3jax.evaluation.figures import Bootstrap, Scored, drawing_of, of_pictures, of_sets
from cv3jax.evaluation.journal import Journal, Scores
from cv3jax.evaluation.metrics.base import Metric, PictureMetric
from cv3jax.evaluation.metrics.registry import METRICS, open_metric
from cv3jax.evaluation.page import PAGE, write_page
from cv3jax.evaluation.pictures import Entry, examine, match, opener
from cv3jax.evaluation.prompt_sets import PromptSet
from cv3jax.evaluation.protocol import metric_protocol, scoring_protocol
from cv3jax.evaluation.reference import check_reference, open_reference
from cv3jax.evaluation.reports import FORMAT, REPORT, SCORES, check_out
from cv3jax.evaluation.scoring import DRAWN, Source, features, score
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import json_bytes, replacing


class Request(NamedTuple):
    """What is evaluated.

    weights: the folder of the metrics' weights. reference: that of the pictures that distances
    between sets are measured to; None: rendered scenes. num: pictures per prompt; None: what the
    pictures' index has, or 1. timing: the time of a batch, where it was measured.
    """

    prompts: PromptSet
    metrics: tuple[str, ...]
    out: Path
    weights: Path | None = None
    reference: Path | None = None
    num: int | None = None
    bootstrap: Bootstrap = Bootstrap()
    timing: dict[str, Any] | None = None


class _Shared(NamedTuple):
    """What all metrics of a run share."""

    request: Request
    num: int
    source: Source
    journal: Journal
    drawing: dict[str, Any]
    reference: Callable[[], tuple[Source, dict[str, Any]]]  # of `open_reference`, read once

    @property
    def numbers(self) -> np.ndarray:
        """Return the number of each picture's prompt, [n]."""
        return np.array([picture.entry.prompt for picture in self.source.pictures])


def check_metrics(request: Request, images: Path | None = None) -> None:
    """Open each metric once and close it, so that what is wrong is said before pictures are drawn.

    images: the folder of pictures that are drawn already. What is seen at once is checked first.

    Raises InputError on missing or wrong weights, a missing reference, pictures of other prompts
    or of another number, and prompts that a metric does not take.
    """
    for name in request.metrics:
        if METRICS[name].kind == "set":
            check_reference(request.reference, request.prompts, name)
    if images is not None:
        _matched(images, request)
    texts = [prompt.text for prompt in request.prompts.prompts]
    for name in request.metrics:
        metric = _opened(request, name)
        if isinstance(metric, PictureMetric):
            metric.check(texts)


def evaluate(request: Request, folder: Path) -> dict[str, Any]:
    """Score the pictures of `folder`, write scores.jsonl and the report, and return report.json.

    A run that was killed continues from its journal, with the same result. `request.out` is locked
    by the caller.

    Raises:
        InputError: the pictures are not those of the prompts, or one is damaged or has changed.
        FailedRunError: a score is not finite.
    """
    prompts = request.prompts
    entries, num = _matched(folder, request)
    request.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(request.out)
    pictures = examine(folder, entries, prompts, journal.known())
    source = Source(DRAWN, pictures, opener(folder))
    reference = functools.cache(
        lambda: open_reference(request.reference, pictures[0].size, journal.known())
    )
    shared = _Shared(request, num, source, journal, drawing_of(pictures), reference)
    content: dict[str, dict] = {}
    scores: dict[str, list[Scores]] = {}
    for name in request.metrics:
        metric = _opened(request, name)  # one at a time is in memory
        if isinstance(metric, PictureMetric):
            content[name], scores[name] = _of_pictures(metric, shared)
        else:
            content[name] = _of_sets(metric, shared)
    rows = _rows(shared, scores)
    lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
    with replacing(request.out / SCORES, durable=True) as temporary:
        temporary.write_bytes(lines)
    report = {
        "format": FORMAT,
        "prompts": {
            "name": prompts.name,
            "sha256": prompts.sha256,
            "count": len(prompts.prompts),
            "published": prompts.published,
        },
        "num": num,
        "pictures": len(pictures),
        "drawing": shared.drawing,
        "bootstrap": request.bootstrap.to_json(),
        "scores": {"file": SCORES, "sha256": hashlib.sha256(lines).hexdigest()},
        "metrics": content,
    }
    if request.timing is not None:
        report["time"] = request.timing
    with replacing(request.out / REPORT, durable=True) as temporary:
        temporary.write_bytes(json_bytes(report))
    write_page(request.out / PAGE, report, rows, lambda number: source.read(pictures[number]))
    return report


def _matched(folder: Path, request: Request) -> tuple[list[Entry], int]:
    """Return what `match` does. Raises InputError where --out has the report of others, too."""
    entries, num = match(folder, request.prompts, request.num)
    texts = request.prompts.prompts
    check_out(request.out, [(entry.file, texts[entry.prompt].text) for entry in entries])
    return entries, num


def _opened(request: Request, name: str) -> Metric:
    with progress.waiting(f"opening the metric {name}"):
        return open_metric(name, request.weights)


def _of_pictures(metric: PictureMetric, shared: _Shared) -> tuple[dict, list[Scores]]:
    prompts = [shared.request.prompts.prompts[number] for number in shared.numbers]
    scores = score(metric, shared.source, [row.text for row in prompts], shared.journal)
    found = of_pictures(
        metric,
        Scored(scores, shared.numbers, [row.category for row in prompts]),
        _scoring(metric, shared),
        shared.drawing,
        shared.request.bootstrap,
    )
    return found, scores


def _of_sets(metric: Metric, shared: _Shared) -> dict:
    request, pictures = shared.request, shared.source.pictures
    reference, said = shared.reference()
    if min(len(pictures), len(reference.pictures)) < metric.least:
        raise InputError(
            f"--metrics {metric.name} needs {metric.least} pictures in each set, and has"
            f" {len(pictures)} drawn and {len(reference.pictures)} of the reference"
        )
    drawn, others = (
        features(metric, source, shared.journal) for source in (shared.source, reference)
    )
    described = (_scoring(metric, shared, said), shared.drawing)
    with progress.waiting(f"the interval of {metric.name}"):
        return of_sets(metric, drawn, others, shared.numbers, described, request.bootstrap)


def _scoring(metric: Metric, shared: _Shared, reference: dict | None = None) -> dict[str, Any]:
    seeds = [picture.entry.seed for picture in shared.source.pictures]
    told = metric_protocol(metric.name, metric.protocol)
    return scoring_protocol(told, shared.request.prompts, shared.num, seeds, reference)


def _rows(shared: _Shared, scores: dict[str, list[Scores]]) -> list[dict[str, Any]]:
    """Return the rows of scores.jsonl, one for each picture."""
    rows = []
    for i, picture in enumerate(shared.source.pictures):
        prompt, expansion = shared.request.prompts.prompts[picture.entry.prompt], picture.entry[3]
        rows.append(
            {
                "id": prompt.id,
                "number": picture.entry.prompt,
                "copy": i % shared.num,
                "category": prompt.category,
                "prompt": prompt.text,
                "expanded": None if expansion is None else expansion.text,
                "file": picture.entry.file,
                "sha256": picture.sha256,
                "seed": picture.entry.seed,
                "scores": {
                    name: value for some in scores.values() for name, value in some[i].items()
                },
            }
        )
    return rows
