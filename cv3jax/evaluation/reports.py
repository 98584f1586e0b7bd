"""Reading the reports that `cv3jax evaluate` wrote."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.io.bounded_json import OWN, ParseError, parse_json, read_bytes
from data_pipeline.io.errors import InputError, raise_machine

REPORT, SCORES, FORMAT = "report.json", "scores.jsonl", 1


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
