"""The second pass: deciding from the facts of all units which images stay.

It joins metadata, filters, removes duplicates, and writes the decisions of each unit.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from data_pipeline.builder import dedup
from data_pipeline.builder.dedup import Entry
from data_pipeline.builder.filters import fitting_captions, make_judge
from data_pipeline.builder.inputs import Unit
from data_pipeline.builder.join import key_of, merge
from data_pipeline.builder.measure import Facts, read_facts, write_rows
from data_pipeline.builder.settings import Settings
from data_pipeline.builder.statistics import Statistics
from data_pipeline.builder.workspace import DECIDE, SCAN, Work
from data_pipeline.sources.parquet import read_metadata


def decide(
    pipeline: beam.Pipeline,
    units: list[Unit],
    work: Work,
    settings: Settings,
    blocked: tuple[str, ...],
    *,
    bands: int,
    metadata: list[str],
    join_on: str,
) -> None:
    """Add the pass to a pipeline.

    Args:
        pipeline: the pipeline.
        units: all units.
        work: the directory of the build.
        settings: the filters.
        blocked: the result of `read_blocked`.
        bands: the number of bands of the perceptual hash.
        metadata: parquet files to join.
        join_on: the column by which they are joined.
    """
    rows = (
        pipeline
        | "units" >> beam.Create(list(range(len(units))))
        | "spread units" >> beam.Reshuffle()
        | "facts" >> beam.FlatMap(_facts, work)
    )
    parts = []
    if metadata:
        tables = (
            pipeline
            | "metadata" >> beam.Create(metadata)
            | "spread metadata" >> beam.Reshuffle()
            | "metadata rows" >> beam.FlatMap(read_metadata, join_on)
        )
        keyed = rows | "by join key" >> beam.Map(lambda row: (key_of(row[1], join_on), row))
        joined = (
            {"rows": keyed, "metadata": tables}
            | "join" >> beam.CoGroupByKey()
            | "merge" >> beam.FlatMapTuple(merge).with_outputs("told", main="rows")
        )
        rows = joined.rows
        parts.append(joined.told)
    paths = [unit.path for unit in units]
    judged = rows | "filter" >> beam.ParDo(_Judge(settings, blocked, paths)).with_outputs(
        "drop", main="good"
    )
    parts.append(judged.drop)
    good = judged.good | "entries" >> beam.Map(lambda pair: pair).with_output_types(
        tuple[str, Entry]
    )
    if not settings.keep_exact:
        firsts = (
            good
            | "by pixels" >> beam.GroupByKey()
            | "exact" >> beam.FlatMap(dedup.exact, paths).with_outputs("drop", main="best")
        )
        parts.append(firsts.drop)
        good = firsts.best
    else:
        good = good | "all" >> beam.Values()
    if settings.near_radius:
        parts.append(
            good
            | "bands" >> beam.FlatMap(dedup.in_bands, bands).with_output_types(tuple[int, Entry])
            | "by band" >> beam.GroupByKey()
            | "pairs"
            >> beam.FlatMap(dedup.pairs, settings.near_radius).with_output_types(
                tuple[tuple[int, int], tuple[Entry, Entry]]
            )
            | "by record" >> beam.GroupByKey()
            | "confirm" >> beam.ParDo(dedup.Confirm(paths))
        )
    keys = (
        good
        | "keys" >> beam.Map(lambda entry: (entry.key, entry)).with_output_types(tuple[str, Entry])
        | "by key" >> beam.GroupByKey()
    )
    parts.append(keys | "clashes" >> beam.FlatMapTuple(dedup.clashes))
    parts.append(
        pipeline | "each unit" >> beam.Create([(number, None) for number in range(len(units))])
    )
    _ = (
        parts
        | beam.Flatten()
        | "by unit" >> beam.GroupByKey()
        | "write" >> beam.ParDo(_Write(work, units))
    )


def _facts(unit: int, work: Work) -> Iterator[tuple[int, Facts]]:
    for facts in read_facts(work.path(SCAN, unit)):
        yield unit, facts


class _Judge(beam.DoFn):
    def __init__(self, settings: Settings, blocked: tuple[str, ...], paths: list[str]):
        self._settings, self._blocked, self._paths = settings, blocked, paths

    def setup(self) -> None:
        self._judge = make_judge(self._settings, self._blocked)

    def process(self, element: tuple[int, Facts]) -> Iterator[Any]:
        unit, facts = element
        if drop := self._judge(facts):
            row = {"ordinal": facts.ordinal, "reason": drop.reason, "detail": drop.detail}
            yield beam.pvalue.TaggedOutput("drop", (unit, row))
        else:
            fitting = fitting_captions(facts, self._settings)
            if len(fitting) <= len(facts.others):
                row = {"ordinal": facts.ordinal, "captions": fitting}
                yield beam.pvalue.TaggedOutput("drop", (unit, row))
            yield facts.pixels, dedup.make_entry(unit, facts, self._paths[unit])


class _Write(beam.DoFn):
    """(unit, decisions) → the unit's file of decisions and its statistics.

    The file has a row for each item that is not kept as it is.
    """

    def __init__(self, work: Work, units: list[Unit]):
        self._work, self._units = work, units

    def process(self, element: tuple[int, Iterable[dict | None]]) -> Iterator[Any]:
        unit, rows = element
        decisions: dict[int, dict] = {}
        for row in rows:
            if row is not None:
                decisions[row["ordinal"]] = {**decisions.get(row["ordinal"], {}), **row}
        figures = Statistics()
        for facts in read_facts(self._work.path(SCAN, unit)):
            decision = decisions.get(facts.ordinal, {})
            figures.add(self._units[unit].name, facts, decision, self._units[unit].source)
        self._work.write(f"{DECIDE}/{unit:06d}.json", figures.to_json())
        write_rows(
            self._work.path(DECIDE, unit), [decisions[ordinal] for ordinal in sorted(decisions)]
        )
        return iter(())
