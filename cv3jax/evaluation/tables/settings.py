"""What a recipe of tables says: its rows, what draws each, and the columns of each table."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cv3jax.evaluation.metrics.registry import METRICS
from cv3jax.fields import TEXT, check, field, whole
from data_pipeline.io.errors import InputError

STEPS, TIME = "steps", "time"
PLAIN = (STEPS, TIME)  # columns that belong to no set of prompts
# a figure's metric, where it has another name
_METRICS = {"precision": "prc", "recall": "prc"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row: its label, the flags of `cv3jax evaluate` that draw it, and where its reports lie."""

    name: str
    label: str
    draw: str
    reports: Path
    steps: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: its title, the names of its rows, and its columns.

    A column is "steps", "time", or SET/FIGURE such as "drawbench/aes".
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def sets(self) -> list[str]:
        """Return the sets of prompts of its columns."""
        return list(dict.fromkeys(set_of(one) for one in self.columns if one not in PLAIN))


@dataclasses.dataclass(frozen=True)
class Shared:
    """What all commands of a recipe share."""

    reports: str = field("Folder of the reports; that of a row is ROW/SET in it.", TEXT)
    models: str = field("--models of the commands.", TEXT)
    weights: str = field("--weights of the commands.", TEXT)
    prompt_sets: str = field("--prompt-sets of the commands.", TEXT)
    reference: str = field("--reference of distances; empty: that of the set.", TEXT)
    num: int = field("Pictures of each prompt.", whole(1, 10_000))
    seed: int = field("Seed of the first picture.", whole(0, 2**32 - 1))

    def __post_init__(self):
        """Raise InputError on a value that cannot be."""
        check(self)


@dataclasses.dataclass(frozen=True)
class Tables:
    """The settings of `cv3jax tables`."""

    shared: Shared
    rows: dict[str, Row]
    tables: dict[str, Table]


def parse(values: Mapping[str, Any]) -> Tables:
    """Return the settings of a recipe that was made plain JSON.

    Raises InputError on a missing field, a row or column that is none, or a value of another type.
    """
    names = [one.name for one in dataclasses.fields(Shared)]
    if missing := [name for name in (*names, "rows", "tables") if name not in values]:
        raise InputError(f"--config: a recipe of tables needs {missing[0]}; see paper_tables")
    shared = Shared(**{name: values[name] for name in names})
    rows = {name: _row(name, one, shared) for name, one in _sections(values, "rows")}
    tables = {name: _table(name, one, rows) for name, one in _sections(values, "tables")}
    return Tables(shared, rows, tables)


def set_of(column: str) -> str:
    """Return the set of prompts of a column."""
    return column.partition("/")[0]


def figure_of(column: str) -> str:
    """Return the figure of a column, such as "aes" or "judge.all"."""
    return column.partition("/")[2]


def metric_of(column: str) -> str:
    """Return the metric that has a column's figure."""
    name = figure_of(column).partition(".")[0]
    return _METRICS.get(name, name)


def timed_with(settings: Tables, row: str) -> str:
    """Return the set whose command also measures a row's time: the first one that it is in."""
    tables = [one for one in settings.tables.values() if row in one.rows]
    return next(iter(one for table in tables for one in table.sets()))


def command(settings: Tables, row: Row, prompts: str, out: Path) -> list[str]:
    """Return the words of the command that measures a row over a set of prompts into `out`."""
    tables = [one for one in settings.tables.values() if row.name in one.rows]
    columns = [column for one in tables for column in one.columns]
    metrics = dict.fromkeys(
        metric_of(one) for one in columns if one not in PLAIN and set_of(one) == prompts
    )
    shared = settings.shared
    words = ["cv3jax", "evaluate", *shlex.split(row.draw), "--prompts", prompts]
    words += ["--metrics", ",".join(metrics), "--num", str(shared.num), "--seed", str(shared.seed)]
    if "--model" in words:
        words += ["--models", shared.models]
    for flag, value in (
        ("--weights", shared.weights),
        ("--prompt-sets", shared.prompt_sets),
        ("--reference", shared.reference if {"fid", "kid", "prc", "fdlite"} & {*metrics} else ""),
    ):
        words += [flag, value] if value else []
    timed = TIME in columns and prompts == timed_with(settings, row.name)
    words += ["--time"] if timed else []
    return [*words, "--out", str(out)]


def _sections(values: Mapping[str, Any], name: str) -> list[tuple[str, Mapping[str, Any]]]:
    found = values[name]
    if not (isinstance(found, dict) and found and all(isinstance(x, dict) for x in found.values())):
        raise InputError(f"config.{name}: must be sections, one for each of the {name}")
    return list(found.items())


def _row(name: str, value: Mapping[str, Any], shared: Shared) -> Row:
    where = f"config.rows.{name}"
    label, draw, steps = (_word(value, field, where) for field in ("label", "draw", "steps"))
    given = value.get("reports")
    if given is not None and not isinstance(given, str):
        raise InputError(f"{where}.reports: must be a folder")
    try:
        words = shlex.split(draw)
    except ValueError as e:
        raise InputError(f"{where}.draw = {draw}: {e}") from e
    if words[:1] not in (["--model"], ["--checkpoint"], ["--images"]):
        raise InputError(f"{where}.draw = {draw}: begin it with --model, --checkpoint or --images")
    return Row(name, label, draw, Path(given or Path(shared.reports) / name), steps)


def _table(name: str, value: Mapping[str, Any], rows: Mapping[str, Row]) -> Table:
    where = f"config.tables.{name}"
    title = _word(value, "title", where)
    names, columns = (_words(value, field, where) for field in ("rows", "columns"))
    if unknown := [one for one in names if one not in rows]:
        raise InputError(f"{where}.rows: no row {unknown[0]}; give some of {', '.join(rows)}")
    for one in columns:
        if one not in PLAIN and (not figure_of(one) or metric_of(one) not in METRICS):
            raise InputError(
                f"{where}.columns: {one} is none; give steps, time or SET/FIGURE, such as"
                " drawbench/aes"
            )
    if not any(one not in PLAIN for one in columns):
        raise InputError(f"{where}.columns: give one that is scored, such as drawbench/aes")
    return Table(title, names, columns)


def _word(value: Mapping[str, Any], name: str, where: str) -> str:
    if not isinstance(value.get(name), str):
        raise InputError(f"{where}.{name}: must be a text")
    return value[name]


def _words(value: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    found = value.get(name)
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise InputError(f"{where}.{name}: must be a tuple of names")
    if not all(isinstance(one, str) for one in found):
        raise InputError(f"{where}.{name}: must be a tuple of names")
    return tuple(found)
