"""Writing the recaptioned dataset, with the same records in the same shards."""

import contextlib
from array import array
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.io.staging import replace_directory
from data_pipeline.records.array_records import ShardWriter, describe
from data_pipeline.records.records import ABOUT, FEATURES, NAME, Record, writing
from data_pipeline.records.sizes import write_sizes

REPORT = "recaption_report.json"


class SameShards:
    """A writer that puts as many records into each shard as `lengths` says.

    It is a context manager: leaving it without an exception publishes the dataset. Until then
    everything is in `staging`, the directory `NAME.partial` beside `out`, which an exception
    removes.

    Raises:
        InputError: `out` has appeared meanwhile (without `overwrite`), another process writes it,
            or `staging` cannot be made or is not of this program.
        OSError: the disk is full or failing.
    """

    def __init__(self, out: Path, lengths: Sequence[int], *, overwrite: bool = False):
        """Store the settings; the context manager writes."""
        self.out, self.staging = out, out.with_name(out.name + ".partial")
        self._overwrite, self._holding = overwrite, contextlib.ExitStack()
        self._lengths, self._writers = lengths, []
        self._image_sizes = array("i")

    def __enter__(self) -> "SameShards":
        """Hold the directory and return the writer."""
        self._holding.enter_context(writing(self.out, self._overwrite))
        return self

    def __exit__(self, kind, value, traceback) -> None:
        """Close the shards and publish the dataset, unless the block failed."""
        with self._holding:
            if self._writers:
                self._writers[-1].close()
            if kind is None:
                self._publish()

    def _publish(self) -> None:
        while len(self._writers) < len(self._lengths):  # empty ones at the end
            self._next_shard().close()
        paths, lengths = (
            [writer.path for writer in self._writers],
            [writer.count for writer in self._writers],
        )
        describe(self.staging, paths, lengths, name=NAME, features=FEATURES, about=ABOUT)
        write_sizes(self.staging, self._image_sizes)
        replace_directory(self.staging, self.out)

    def write(self, record: Record) -> None:
        """Add one record."""
        while not self._writers or self._writers[-1].count == self._lengths[len(self._writers) - 1]:
            if self._writers:
                self._writers[-1].close()
            self._next_shard()
        self._writers[-1].write(record)
        self._image_sizes.extend((record["height"], record["width"]))

    def _next_shard(self) -> ShardWriter:
        self._writers.append(
            ShardWriter(self.staging / f"{len(self._writers):05d}.writing", FEATURES)
        )
        return self._writers[-1]
