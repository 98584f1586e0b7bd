"""Writing what a recaptioning was answered: the records, then the report."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from data_pipeline.chat.answers import Answer
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError, naming
from data_pipeline.io.files import json_bytes
from data_pipeline.io.objects.places import public
from data_pipeline.recaption.journal import Journal, identify
from data_pipeline.recaption.output import REPORT, SameShards
from data_pipeline.recaption.parts import Parts
from data_pipeline.recaption.summary import Summary
from data_pipeline.recaption.triplets import Triplets
from data_pipeline.records.records import Record, RecordSource


@dataclasses.dataclass(frozen=True)
class Writing:
    """Writing what was answered: records in the order of the source, then the report."""

    data: str | Path
    source: RecordSource
    journal: Journal
    report: dict[str, Any]  # filled in by the methods
    start: float  # of the run, by the monotonic clock

    def whole(
        self, count: int, dataset: SameShards | None, triplets: Triplets | None, folder: Path
    ) -> None:
        """Write the first `count` records and the report, without a dataset into `folder`."""
        summary = Summary()
        with progress.bar(count, "write", "record") as bar:
            for index in range(count):
                record, caption = self._answered(self.source[index], summary)
                if dataset:
                    dataset.write(record)
                if triplets and caption:
                    triplets.write(record, caption)
                bar.update()
        self._end(summary)
        place = (dataset.staging if dataset else folder) / REPORT
        with naming(place):
            place.write_bytes(json_bytes(self.report))
        self._check(summary)

    def part(self, parts: Parts) -> None:
        """Write the shards and the report of one process."""
        summary = Summary()
        with progress.bar(sum(map(len, parts.rows.values())), "write", "record") as bar:
            for k in parts.rows:
                with parts.shard(k) as writer:
                    for record in parts.records(k):
                        writer.write(self._answered(record, summary)[0])
                        bar.update()
        self._end(summary)
        parts.done(self.report)

    def _answered(self, record: Record, summary: Summary) -> tuple[Record, str]:
        outcome = self.journal.result(identify(record))
        summary.add(record, outcome)
        caption = outcome.text if isinstance(outcome, Answer) else ""
        return {**record, "recaption": caption}, caption

    def _end(self, summary: Summary) -> None:
        self.report.update(summary.figures(), seconds=round(time.monotonic() - self.start, 2))

    def _check(self, summary: Summary) -> None:
        if not summary.recaptioned:
            raise InputError(
                f"no record of {self.data} got a new caption: {summary}; see all reasons in"
                f" {public(self.journal.path)}"
            )
