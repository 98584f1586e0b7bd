"""The cells of tables: figures of reports, where their protocols agree, and published ones."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cv3jax.evaluation.protocol import differences, refusal
from cv3jax.evaluation.reports import REPORT, read_report
from cv3jax.evaluation.tables.published import FIGURES
from cv3jax.evaluation.tables.settings import (
    STEPS,
    TIME,
    Row,
    Table,
    Tables,
    command,
    figure_of,
    metric_of,
    set_of,
    timed_with,
)
from data_pipeline.io.errors import InputError

Report = Mapping[str, Any]
_STAGES = ("base", "relay")


class Cell(NamedTuple):
    """A cell: the measured figure with its interval, and the published one; None where not there.

    text: what stands there in place of a figure, such as the steps "50+10".
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    published: float | None = None
    text: str | None = None


class Made(NamedTuple):
    """A table with its cells by row and column, and the row and set of each that is not measured.

    protocols: of each column that has a measured cell, the hash of the scoring protocol.
    """

    table: Table
    cells: dict[str, dict[str, Cell]]
    missing: list[tuple[str, str]]
    protocols: dict[str, str]


def read_all(settings: Tables) -> dict[tuple[str, str], Report]:
    """Return (row, set) → the report of each that is there.

    Raises InputError where one is damaged, or of another set of prompts.
    """
    sets = list(dict.fromkeys(one for table in settings.tables.values() for one in table.sets()))
    found = {}
    for row in settings.rows.values():
        for prompts in sets:
            if (place := _place(row, prompts)) is not None:
                content = read_report(place, f"config.rows.{row.name}: the report").content
                name = content["prompts"]["name"]
                if name == prompts:
                    found[row.name, prompts] = content
                elif place.name == prompts:
                    raise InputError(f"config.rows.{row.name}: {place} is of {name}, not {prompts}")
    return found


def make(name: str, settings: Tables, reports: Mapping[tuple[str, str], Report]) -> Made:
    """Return one table. Raises InputError where the cells of a column have unlike protocols."""
    table = settings.tables[name]
    cells = {
        row: {column: _cell(settings.rows[row], column, reports, table) for column in table.columns}
        for row in table.rows
    }
    protocols = {}
    for column in table.columns:
        if column != STEPS and (found := _agreeing(name, column, settings, reports)):
            protocols[column] = found
    missing = [
        (row, prompts)
        for row, some in cells.items()
        for prompts in dict.fromkeys((timed_with(settings, row), *table.sets()))
        if any(
            cell.value is None
            and prompts == (timed_with(settings, row) if column == TIME else set_of(column))
            for column, cell in some.items()
        )
    ]
    return Made(table, cells, missing, protocols)


def words(
    settings: Tables, name: str, prompts: str, reports: Mapping[tuple[str, str], Report]
) -> list[str]:
    """Return the words of the command that measures a row over a set, where its report is."""
    row = settings.rows[name]
    place = _place(row, prompts) if (name, prompts) in reports else None
    return command(settings, row, prompts, place or row.reports / prompts)


def _place(row: Row, prompts: str) -> Path | None:
    """Return the folder of a row's report over a set: SET in the row's folder, or that itself."""
    places = (row.reports / prompts, row.reports)
    return next((place for place in places if (place / REPORT).is_file()), None)


def _cell(row: Row, column: str, reports: Mapping[tuple[str, str], Report], table: Table) -> Cell:
    published = FIGURES.get(row.name, {}).get(column)
    own = [reports[row.name, prompts] for prompts in table.sets() if (row.name, prompts) in reports]
    if column == STEPS:
        found = next((steps for one in own if (steps := _steps(one))), None)
        return Cell(text=found or row.steps)
    if column == TIME:
        time = _time(row, reports)
        return Cell(None if time is None else time["median"], published=published)
    report = reports.get((row.name, set_of(column)))
    figures = {} if report is None else report["metrics"].get(metric_of(column), {})
    figure = figures.get("figures", {}).get(figure_of(column))
    if figure is None:
        return Cell(published=published)
    return Cell(figure["value"], figure["low"], figure["high"], published)


def _agreeing(
    name: str, column: str, settings: Tables, reports: Mapping[tuple[str, str], Report]
) -> str | None:
    """Return the hash of a column's protocol; None where nothing is measured, or it is the time.

    Raises InputError where two rows have unlike protocols, with what differs.
    """
    protocol: Callable[[Row], tuple[Any, str | None] | None]
    protocol = _conditions if column == TIME else _scoring
    known = [
        (settings.rows[row], found)
        for row in settings.tables[name].rows
        if (found := protocol(settings.rows[row], column, reports)) is not None
    ]
    for row, (value, _) in known[1:]:
        first, (theirs, _) = known[0]
        if lines := differences(theirs, value):
            raise InputError(
                f"not comparable: table {name}, {first.label} against {row.label}:"
                f" {refusal(column, lines)}"
            )
    return known[0][1][1] if known else None


def _scoring(row: Row, column: str, reports: Mapping) -> tuple[Any, str | None] | None:
    report = reports.get((row.name, set_of(column)))
    metric = None if report is None else report["metrics"].get(metric_of(column))
    return None if metric is None else (metric["scoring"], metric["scoring_sha256"])


def _conditions(row: Row, column: str, reports: Mapping) -> tuple[Any, str | None] | None:
    """Return what two times must have in common: pictures at once, their size, and the device."""
    del column
    if (time := _time(row, reports)) is None:
        return None
    by = time["drawn_by"]
    return {"batch": time["batch"], "size": by["size"], "device": by["device"]}, None


def _time(row: Row, reports: Mapping[tuple[str, str], Report]) -> Mapping[str, Any] | None:
    own = (report for (name, _), report in reports.items() if name == row.name)
    return next((report["time"] for report in own if "time" in report), None)


def _steps(report: Report) -> str | None:
    """Return the steps of the pictures that a report is of, as "50+10"; None where not known."""
    made = report["drawing"]["made_by"]
    if not isinstance(made, dict):
        return None
    by = made.get("drawn_by")
    steps = by["steps"] if by else [made[one]["steps"] for one in _STAGES if one in made]
    return "+".join(map(str, steps)) if steps and None not in steps else None
