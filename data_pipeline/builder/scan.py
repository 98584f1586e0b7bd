"""The first pass: every item of a unit is decoded once and measured, and its facts are written."""

import collections
import concurrent.futures
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from data_pipeline.builder.inputs import Unit, read_unit
from data_pipeline.builder.measure import Facts, look, pack_rows, read_rows, row_of
from data_pipeline.builder.workspace import SCAN, Work
from data_pipeline.io import storage
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
_ITEMS, _BYTES = 16, 2**18  # of a part, see `_parts`


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
        header = {"items": 0, "bad": 0, "lost": 0}
        rows = pack_rows(self._rows(unit, header))
        storage.write(self._work.path(SCAN, number), pack_rows([header]) + rows)
        return iter(())

    def _rows(self, unit: Unit, header: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Yield the unit's facts as rows, and count them in `header`."""
        for facts in self._looked(read_unit(unit)):
            header["items"] += 1
            if facts.problem in BAD:
                header["bad"] += 1
                # a truncated file has only one row, so its lost bytes are counted too
                header["lost"] += 0 if facts.sha256 else facts.bytes
            yield row_of(facts)

    def _looked(self, items: Iterable[Item | Skip]) -> Iterator[Facts]:
        waiting: collections.deque = collections.deque()
        for part in _parts(items):
            waiting.append(self._pool.submit(_look, part, self._bounds))
            if len(waiting) > 2 * self._threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _parts(items: Iterable[Item | Skip]) -> Iterator[list[tuple[int, Item | Skip]]]:
    """Yield the numbered items in parts of at most _ITEMS items, or one more than _BYTES of images.

    A thread gets a part at a time: handing over small images one by one would cost more than they.
    """
    part, size = [], 0
    for numbered in enumerate(items):
        part.append(numbered)
        size += len(numbered[1].image) if isinstance(numbered[1], Item) else 0
        if len(part) == _ITEMS or size > _BYTES:
            yield part
            part, size = [], 0
    yield part


def _look(part: list[tuple[int, Item | Skip]], bounds: tuple[int, int]) -> list[Facts]:
    """Return the facts of a part's items."""
    return [look(item, ordinal, *bounds) for ordinal, item in part]


def read_header(work: Work, number: int) -> dict[str, int]:
    """Return {"items", "bad", "lost": bytes} of a scanned unit."""
    return next(read_rows(work.path(SCAN, number)))
