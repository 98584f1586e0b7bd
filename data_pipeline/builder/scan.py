"""The first pass: every item of a unit is decoded once and measured, and its facts are written."""

import collections
import concurrent.futures
import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from data_pipeline.builder.inputs import Unit, read_unit
from data_pipeline.builder.measure import Facts, look, read_rows, write_rows
from data_pipeline.builder.workspace import SCAN, Work
from data_pipeline.sources.items import (
    BAD_TAR,
    BAD_TEXT,
    MISSING,
    UNDECODABLE,
    UNREADABLE,
    Item,
    Skip,
)
from data_pipeline.sources.parquet import BAD_PARQUET

BAD = {
    reason.replace(" ", "_")
    for reason in (UNDECODABLE, BAD_TAR, BAD_TEXT, MISSING, UNREADABLE, BAD_PARQUET)
}


class Scan(beam.DoFn):
    """(number, unit) → the unit's file of facts.

    `threads` threads decode (Pillow releases the GIL), with few images in memory at a time.
    """

    def __init__(self, work: Work, max_bytes: int, max_pixels: int, threads: int):
        """Store the settings, which Beam sends to its workers."""
        self._work, self._bounds, self._threads = work, (max_bytes, max_pixels), threads

    def setup(self) -> None:
        """Start the threads in the worker."""
        # Pillow warns of damaged EXIF blocks, which are counted where they matter
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads)

    def teardown(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def process(self, element: tuple[int, Unit]) -> Iterator[Any]:
        """Write the facts of the unit; yield nothing."""
        number, unit = element
        rows = [dataclasses.asdict(facts) for facts in self._looked(read_unit(unit))]
        bad = [row for row in rows if row["problem"] in BAD]
        # a truncated file has only one row, so its lost bytes are counted too
        header = {
            "items": len(rows),
            "bad": len(bad),
            "lost": sum(row["bytes"] for row in bad if not row["sha256"]),
        }
        write_rows(self._work.path(SCAN, number), [header, *rows])
        return iter(())

    def _looked(self, items: Iterable[Item | Skip]) -> Iterator[Facts]:
        waiting: collections.deque = collections.deque()
        for ordinal, item in enumerate(items):
            waiting.append(self._pool.submit(look, item, ordinal, *self._bounds))
            if len(waiting) > 2 * self._threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def read_header(work: Work, number: int) -> dict[str, int]:
    """Return {"items", "bad", "lost": bytes} of a scanned unit."""
    return next(read_rows(work.path(SCAN, number)))
