"""Checks between the passes of a build: too much damaged input, and filters that cannot work."""

from data_pipeline.builder.filters import ASKED_BY
from data_pipeline.builder.inputs import Unit
from data_pipeline.builder.scan import read_header
from data_pipeline.builder.settings import BuildSettings, Settings
from data_pipeline.builder.statistics import Statistics
from data_pipeline.builder.workspace import Work
from data_pipeline.io.errors import InputError
from data_pipeline.sources.fields import names_of

_GO_ON = "--allow-unreadable-fields"


def check_bad(work: Work, units: list[Unit], most: float) -> int:
    """Return the number of items. Raises InputError where more than the share `most` is bad."""
    headers = [read_header(work, number) for number in range(len(units))]
    items, bad, lost = (
        sum(header[name] for header in headers) for name in ("items", "bad", "lost")
    )
    size = sum(unit.size for unit in units if not unit.parts)
    if lost > most * size:
        broken = max(range(len(units)), key=lambda number: headers[number]["lost"])
        raise InputError(
            f"bytes lost in truncated files: {lost:,} of {size:,} (most of them in"
            f" {units[broken].name}), more than --max-bad-fraction {most:g} allows; fetch the files"
            " again or raise that limit, and run the same command to resume"
        )
    if bad > most * items:
        worst = max(range(len(units)), key=lambda number: headers[number]["bad"])
        raise InputError(
            f"damaged or undecodable items: {bad:,} of {items:,} ({bad / items:.1%}, most of them"
            f" in {units[worst].name}), more than --max-bad-fraction {most:g} allows; check the"
            " inputs or raise that limit, and run the same command to resume"
        )
    return items


def check_figures(figures: Statistics, settings: BuildSettings) -> None:
    """Raise InputError where no metadata matched, a filter cannot work, or nothing is left."""
    if settings.metadata and not figures.joined:
        raise InputError(
            f"--metadata: no item has a row with its {settings.join_on!r}; give another column as"
            " --join-on"
        )
    if not settings.allow_unreadable:
        _check_fields(figures, settings.filters)
    if not figures.kept:
        reasons = (
            ", ".join(f"{n} × {reason}" for reason, n in figures.reasons.most_common())
            or "nothing, because the inputs have no items"
        )
        hint = "loosen the filters and run the same command, which reuses the scan"
        if set(figures.reasons) <= {"no_caption", "no_image"}:
            hint = (
                "give each image a caption: NAME.txt beside it, a metadata.jsonl or .csv, or"
                " --captions FILE"
            )
        raise InputError(f"no image is left; left out: {reasons}; {hint}")


def _check_fields(figures: Statistics, filters: Settings) -> None:
    """Raise InputError where the field of an active filter is unreadable, or missing in a source.

    It is unreadable if it cannot be understood in some image, and missing if no image of the source
    has it.
    """
    asked = {field: name for field, name in ASKED_BY.items() if getattr(filters, name) is not None}
    if wrong := [field for field in asked if figures.unreadable[field]]:
        told = "; ".join(
            f"{field} of {figures.unreadable[field]:,} of {figures.items:,} items, such as"
            f" {figures.unread[field]} ({_flag(asked[field])})"
            for field in wrong
        )
        raise InputError(
            f"a filter's field has values that cannot be understood: {told}; correct them, or give"
            f" {_GO_ON} to let these items pass the filter, and run the same command to resume"
        )
    for source, fields in sorted(figures.fields.items()):
        for field, name in asked.items():
            required = filters.require_scores and field not in ("url", "nsfw")
            if not required and not fields[field]["read"]:
                raise InputError(
                    f"{_flag(name)} needs {' or '.join(names_of(field))}, which no item of {source}"
                    f" has; join it with --metadata, leave the filter out, or give {_GO_ON} to let"
                    " these items pass it, and run the same command to resume"
                )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
