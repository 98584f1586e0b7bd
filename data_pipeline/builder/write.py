"""The third pass: reads the inputs again and writes what was kept, one shard per group of units.

Image bytes stay as they were.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam

from data_pipeline.builder.inputs import Unit, read_unit
from data_pipeline.builder.measure import read_facts, read_rows, text_digest
from data_pipeline.builder.workspace import DECIDE, SCAN, SHARDS, Work
from data_pipeline.io import storage
from data_pipeline.io.errors import InputError
from data_pipeline.records.array_records import ShardWriter
from data_pipeline.records.records import FEATURES, Record
from data_pipeline.sources.items import Item, record_scores

SUFFIX = "array_record"


class WriteShard(beam.DoFn):
    """(group, [(number, unit), …]) → a shard of their kept items and then its length and sizes."""

    def __init__(self, work: Work):
        """Store the directory of the build."""
        self._work = work

    def process(self, element: tuple[int, list[tuple[int, Unit]]]) -> Iterator[Any]:
        """Write the shard of a group; yield nothing."""
        group, units = element
        local = None if storage.is_remote(self._work.folder) else Path(self._work.folder)
        with tempfile.TemporaryDirectory(prefix="writing-", dir=local) as folder:
            shard, sizes = Path(folder) / "shard", []
            with ShardWriter(shard, FEATURES) as writer:
                for number, unit in units:
                    for record in self._records(number, unit):
                        writer.write(record)
                        sizes.append([record["height"], record["width"]])
            size = shard.stat().st_size
            if sizes:
                storage.upload(shard, self._work.path(SHARDS, group, SUFFIX))
        # written after the shard, to mark it as complete
        self._work.write(f"{SHARDS}/{group:06d}.json", {"bytes": size, "sizes": sizes})
        return iter(())

    def _records(self, number: int, unit: Unit) -> Iterator[Record]:
        decisions = {row["ordinal"]: row for row in read_rows(self._work.path(DECIDE, number))}
        facts_of = read_facts(self._work.path(SCAN, number))
        for item in read_unit(unit):
            facts = next(facts_of, None)
            decision = decisions.get(facts.ordinal, {}) if facts else {}
            same = facts is not None and item.key == facts.key
            if same and "reason" in decision:
                continue
            same = same and isinstance(item, Item) and text_digest(item) == facts.text
            if not same or hashlib.sha256(item.image).hexdigest() != facts.sha256:
                raise _changed(unit)
            captions = (item.caption, *item.others)
            first, *others = (captions[i] for i in decision.get("captions", range(len(captions))))
            scores = record_scores(decision.get("scores", item.scores), tuple(others))
            yield Record(
                image=item.image,
                caption=first,
                recaption="",
                url=decision.get("url", item.url),
                key=decision.get("key", item.key),
                width=facts.width,
                height=facts.height,
                sha256=facts.sha256,
                phash=f"{facts.phash:016x}",
                scores=json.dumps(scores, sort_keys=True),
            )
        if next(facts_of, None) is not None:
            raise _changed(unit)


def _changed(unit: Unit) -> InputError:
    return InputError(
        f"{unit.path} changed while it was being read; leave it unchanged and run the same command,"
        " which reads it again"
    )
