"""Reading the reports that `cv3jax evaluate` wrote."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.io import kept_fields
from data_pipeline.io.bounded_json import OWN, ParseError, parse_json, read_bytes
from data_pipeline.io.errors import InputError, raise_machine

REPORT, SCORES, FORMAT = "report.json", "scores.jsonl", 1
_MOST = 1e300
_NUMBER = kept_fields.number("A figure.", -_MOST, _MOST)
_END = kept_fields.Kept(
    "An end of an interval, or a score; null where there is none.",
    "a number or null",
    lambda x: x is None or _NUMBER.fits(x),
)
_HASH, _COUNT = kept_fields.text("A SHA-256.", 64), kept_fields.whole("A number.", 0, 2**53)
_FIGURE = {"value": _NUMBER, "low": _END, "high": _END, "n": _COUNT, "prompts": _COUNT}
_OBJECT = kept_fields.section("An object.", {})
_METRIC = {
    "kind": kept_fields.one_of("What it scores.", "picture", "set"),
    "better": kept_fields.one_of("Which way.", "higher", "lower"),
    "scoring": kept_fields.section("Its protocol.", {"metric": _OBJECT}),
    "figures": _OBJECT,
}
_CONTENT = {
    "drawing": _OBJECT,
    "metrics": _OBJECT,
    "scores": kept_fields.section("The scores.", {"sha256": _HASH}),
}
_ROW = {
    "id": kept_fields.text("Of its prompt."),
    "number": _COUNT,
    "copy": _COUNT,
    "sha256": _HASH,
    "scores": _OBJECT,
}


class Report(NamedTuple):
    """A report that `cv3jax evaluate` wrote: its folder, report.json, and scores.jsonl's rows."""

    folder: Path
    content: dict[str, Any]
    rows: list[dict[str, Any]]


def check_out(out: Path, pictures: Sequence[tuple[str, str]]) -> None:
    """Raise InputError where `out` has the report of other pictures, which would be replaced.

    pictures: (file, prompt) of each. A report of the same ones is made again, with what the run
    asks for; so is one that cannot be read.
    """
    try:
        rows = read_report(out).rows
        found = [(row["file"], row["prompt"]) for row in rows]
    except (InputError, KeyError, TypeError):
        return  # there is none, or none that could be lost
    if found != list(pictures):
        raise InputError(
            f"--out {out} has a report of other pictures or prompts ({len(found):,} of them; this"
            f" run has {len(pictures):,}); give another --out"
        )


def read_report(place: Path, flag: str = "--compare") -> Report:
    """Return the report in a folder, or beside a report.json.

    flag: what named the folder, for messages.

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
            f"{flag} {place} has no report ({e.strerror}: {Path(e.filename or '').name}); give"
            " the --out of a cv3jax evaluate that has ended"
        ) from e
    except ParseError as e:
        raise InputError(f"{flag} {place}: its report is damaged ({e}); evaluate again") from e
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{flag} {place}: {REPORT} is not a report of format {FORMAT}")
    damaged = f"{flag} {place}: its report is damaged"
    if said := kept_fields.wrong(content, _CONTENT):
        raise InputError(f"{damaged} ({said}); evaluate again")
    if hashlib.sha256(data).hexdigest() != content["scores"]["sha256"]:
        raise InputError(
            f"{flag} {place}: {SCORES} is not the one that {REPORT} is of; evaluate again"
        )
    if said := _wrong(content["metrics"], rows):
        raise InputError(f"{damaged} ({said}); evaluate again")
    return Report(folder, content, rows)


def _wrong(metrics: dict[str, Any], rows: list[Any]) -> str | None:
    """Return what is wrong with the metrics of a report or the rows of its scores, or None."""
    columns = []
    for name, metric in metrics.items():
        if said := kept_fields.wrong(metric, _METRIC):
            return f"{name[:40]}: {said}"
        for column, figure in metric["figures"].items():
            if said := kept_fields.wrong(figure, _FIGURE):
                return f"{column[:40]}: {said}"
        if metric["kind"] == "picture":
            columns += metric["figures"]
        elif said := kept_fields.wrong(metric["scoring"].get("reference"), {"count": _COUNT}):
            return f"the reference of {name[:40]}: {said}"
    for number, row in enumerate(rows, 1):
        said = kept_fields.wrong(row, _ROW)
        if said := said or kept_fields.wrong(row["scores"], dict.fromkeys(columns, _END)):
            return f"{SCORES} line {number}: {said}"
    if len({(row["id"], row["copy"]) for row in rows}) < len(rows):
        return f"two lines of {SCORES} are of one picture"
    return None
