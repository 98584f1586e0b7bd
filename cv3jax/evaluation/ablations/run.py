"""Running an ablation: each variant is drawn and scored once, and compared in its group."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cv3jax.evaluation.ablations.report import write_report
from cv3jax.evaluation.ablations.variants import Scoring, Variant, by_group
from cv3jax.evaluation.compare import compare
from cv3jax.evaluation.drawing import FOLDER, draw
from cv3jax.evaluation.figures import LEVEL, Bootstrap
from cv3jax.evaluation.image_metrics import distances
from cv3jax.evaluation.journal import Journal
from cv3jax.evaluation.protocol import digest
from cv3jax.evaluation.reports import FORMAT, REPORT, Report, read_report
from cv3jax.evaluation.run import Request, check_metrics, evaluate
from cv3jax.evaluation.scoring import DRAWN
from cv3jax.evaluation.statistics.bootstrap import mean_interval
from data_pipeline.io.bounded_json import OWN, parse_json, read_bytes
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import json_bytes, replacing
from data_pipeline.io.progress import say, waiting

VARIANTS, MADE_BY = "variants", "variant.json"


def ablate(
    variants: Sequence[Variant], scoring: Scoring, bootstrap: Bootstrap, out: Path
) -> dict[str, Any]:
    """Draw and score the variants, write report.json and report.html, and return the report.

    Variants that are done are kept, so the same command continues a run that was stopped. `out` is
    locked by the caller.

    Raises:
        InputError: the variants do not fit together, nothing can be drawn, or `out` holds others.
        StoppedError: a signal asked the process to end.
    """
    groups = by_group(variants)
    for name, group in groups.items():
        if group[0].drawing is None and any(one.drawing for one in group):
            raise InputError(
                f"the group {name!r} has no reference: {group[0].name}: {group[0].left_out}"
            )
    drawn: dict[str, Variant] = {}
    for one in variants:
        if one.drawing is not None:
            drawn.setdefault(one.folder, one)
    if not drawn:
        raise InputError(f"no variant can be drawn; {variants[0].name}: {variants[0].left_out}")
    for metrics in dict.fromkeys((one.prompts, one.metrics) for one in drawn.values()):
        check_metrics(Request(*metrics, out, scoring.weights, scoring.reference))
    reports: dict[str, Report] = {}
    for number, (folder, one) in enumerate(drawn.items(), 1):
        say(f"variant {number} of {len(drawn)}: {one.group}: {one.name}")
        place = out / VARIANTS / folder
        reports[folder] = _report_of(one, scoring, bootstrap, place, [*reports.values()])
    content = {
        "format": FORMAT,
        "bootstrap": bootstrap.to_json(),
        "groups": {
            name: _compared(group, reports, scoring, bootstrap) for name, group in groups.items()
        },
    }
    with replacing(out / REPORT, durable=True) as temporary:
        temporary.write_bytes(json_bytes(content))
    write_report(out, content, reports)
    return content


def _report_of(
    one: Variant, scoring: Scoring, bootstrap: Bootstrap, place: Path, before: list[Report]
) -> Report:
    """Return the report of a variant, which is made unless it is there.

    before: other reports, whose features of references are taken over.
    """
    made_by = {
        "settings": one.settings,
        "prompts": one.prompts.sha256,
        "bootstrap": bootstrap.to_json(),
    }
    if (place / REPORT).exists() and digest(_known(place / MADE_BY)) == digest(made_by):
        return read_report(place)
    folder = draw(one.drawing, one.prompts, scoring.num, place)
    for other in before[-1:]:
        Journal(place).take_references(Journal(other.folder, repair=False), DRAWN)
    (place / REPORT).unlink(missing_ok=True)
    request = Request(
        one.prompts,
        one.metrics,
        place,
        weights=scoring.weights,
        reference=scoring.reference,
        num=scoring.num,
        bootstrap=bootstrap,
    )
    evaluate(request, folder)
    with replacing(place / MADE_BY, durable=True) as temporary:
        temporary.write_bytes(json_bytes(made_by))
    return read_report(place)


def _known(path: Path) -> Any:
    try:
        return parse_json(read_bytes(path, OWN.bytes))
    except (OSError, ValueError):  # it was made by no run that ended
        return None


def _compared(
    group: list[Variant], reports: dict[str, Report], scoring: Scoring, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return what the report says of a group: figures, and differences from its first variant."""
    first, variants, left_out = group[0], {}, {}
    for one in group:
        if one.drawing is None:
            left_out[one.name] = one.left_out
            continue
        ours, theirs = reports[one.folder], reports[first.folder]
        figures = {
            column: figure
            for metric in ours.content["metrics"].values()
            for column, figure in metric["figures"].items()
        }
        better = {
            column: metric["better"]
            for metric in ours.content["metrics"].values()
            for column in metric["figures"]
        }
        variants[one.name] = {
            "changes": one.changes,
            "folder": f"{VARIANTS}/{one.folder}",
            "figures": figures,
            "better": better,
        }
        if one is first:
            continue
        with waiting(f"{one.group}: {one.name} against {first.name}"):
            found = compare(ours, theirs, None, bootstrap, scoring.weights)
        keys = ("difference", "low", "high", "p", "n")
        variants[one.name]["differences"] = {
            column: {key: row[key] for key in keys}
            for columns in found["metrics"].values()
            for column, row in columns.items()
        }
        variants[one.name]["distance"] = _distance(ours, theirs, bootstrap)
    reference = None if first.drawing is None else first.name
    return {"reference": reference, "variants": variants, "left_out": left_out}


def _distance(ours: Report, theirs: Report, bootstrap: Bootstrap) -> dict[str, Any] | None:
    """Return how far the pictures are from those of the same prompts and seeds; None by size.

    It is the root mean square difference of pixels in 0..1, as the mean over pictures.
    """
    others = {(row["id"], row["copy"]): row["file"] for row in theirs.rows}
    pairs = [
        (
            ours.folder / FOLDER / row["file"],
            theirs.folder / FOLDER / others[row["id"], row["copy"]],
        )
        for row in ours.rows
    ]
    values = distances(pairs)
    if values is None:
        return None
    found = mean_interval(
        values,
        [row["number"] for row in ours.rows],
        draws=bootstrap.draws,
        seed=bootstrap.seed,
        level=LEVEL,
    )
    return {"value": float(found.value), "low": found.low, "high": found.high, "n": int(found.n)}
