"""The order of records: endless streams, mixed by weight, and the rows of each batch for one host.

A stream is a grain MapDataset. Its element at a position depends on the seed and the position
alone, so the position is its whole state.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from data_pipeline.loading.ahead import Ahead
from data_pipeline.loading.damaged import Cell, Pick, Picks
from data_pipeline.loading.selections import Selected
from data_pipeline.loading.usable import shard_lengths
from data_pipeline.loading.windows import WindowOrder

Weighted = Sequence[tuple[Cell, float]]  # cells and their shares


@dataclasses.dataclass(frozen=True)
class Windows:
    """How a loader shuffles within windows of shards.

    Attributes:
        shards: the most shards of a window.
        seed: the seed of the order of shards, which is the same for all buckets of a dataset, so
            that their windows are read together.
        batch: the rows of a batch on all hosts.
        rows: those that this host reads.
        reach: positions between the first and the last of a stream that are prepared at a time.
    """

    shards: int
    seed: int
    batch: int
    rows: tuple[int, ...]
    reach: int


class WindowPicks:
    """The picks of a cell in the order of its windows, as a source that grain reads."""

    def __init__(self, cell: Cell, order: WindowOrder, ahead: Ahead | None, count: int | None):
        """Make the source of `count` epochs; None: endless."""
        self.cell, self._order, self._ahead, self._epochs = cell, order, ahead, count
        self._starts = np.concatenate([[0], np.cumsum(order.counts)])

    def __len__(self) -> int:
        """Return the number of picks."""
        return sys.maxsize if self._epochs is None else self._epochs * len(self._order)

    def __getitem__(self, position: int) -> Pick:
        """Return the pick of a position."""
        place = self._order.place(int(position))
        if self._ahead is not None:
            self._ahead.at(int(position), place.window)
        return Pick(self.cell, int(self._starts[place.shard]) + place.record)

    def __repr__(self) -> str:
        """Return the text by which grain names the source in its own messages."""
        return f"WindowPicks({getattr(self.cell.source, 'name', 'records')}, {len(self._order)})"


def epochs(
    cell: Cell,
    seed: int,
    *,
    shuffle: bool,
    count: int | None = None,
    windows: Windows | None = None,
    label: tuple[int, ...] = (),
) -> grain.MapDataset:
    """Return the picks of a cell, `count` times or endlessly, each time in a new order.

    grain reseeds its global shuffle for each epoch. With `windows`, the order is that of
    `WindowOrder`, where `label` distinguishes buckets.
    """
    if shuffle and windows:
        return _windowed(cell, windows, count, label).seed(seed)
    data = grain.MapDataset.source(Picks(cell)).seed(seed)
    return (data.shuffle() if shuffle else data).repeat(count)


def _windowed(
    cell: Cell, windows: Windows, count: int | None, label: tuple[int, ...]
) -> grain.MapDataset:
    lengths = shard_lengths(cell.source)
    if isinstance(cell.indices, np.ndarray):  # with repeats, the copies of a record side by side
        cell = cell._replace(indices=np.sort(cell.indices))
    order = WindowOrder(
        in_shards(cell.indices, lengths), windows.shards, windows.seed, label, windows.batch
    )
    ahead = None
    if hasattr(cell.source, "want"):
        ahead = Ahead(cell.source, order, windows.rows, windows.reach, label)
    return grain.MapDataset.source(WindowPicks(cell, order, ahead, count))


def in_shards(indices: Sequence[int], lengths: Sequence[int]) -> np.ndarray:
    """Return how many of ascending indices each shard has, int64 [S].

    lengths: the number of records of each shard.
    """
    if isinstance(indices, Selected):
        return indices.in_shards(lengths)
    if isinstance(indices, range):
        return np.array(lengths, np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return np.diff(np.searchsorted(indices, ends)).astype(np.int64)


def mixed(
    cells: Weighted,
    seed: int,
    *,
    shuffle: bool,
    windows: Windows | None = None,
    label: tuple[int, ...] = (),
) -> grain.MapDataset:
    """Return endless picks of `cells`, mixed by their shares.

    Each cell runs through its own epochs, in an order that does not depend on shares or on other
    cells. `label` distinguishes the streams of one bucket from those of others.
    """

    def own(cell: Cell, label: tuple[int, ...]) -> int:
        return int(np.random.SeedSequence([seed, cell.part, *label]).generate_state(1)[0])

    def windows_of(cell: Cell) -> Windows | None:
        if windows is None:
            return None
        # a record's place in a stream tells its row of the batch only where nothing is mixed in
        rows = {} if len(cells) == 1 else {"batch": 1, "rows": (0,)}
        return dataclasses.replace(windows, seed=own(cell, ()), **rows)

    return mix(
        [
            epochs(cell, own(cell, label), shuffle=shuffle, windows=windows_of(cell), label=label)
            for cell, _ in cells
        ],
        [weight for _, weight in cells],
    )


def mix(streams: Sequence[grain.MapDataset], weights: Sequence[float]) -> grain.MapDataset:
    """Return endless streams as one.

    Any stretch of it contains each stream in its share to within one or two elements, and misses or
    repeats none of its elements.
    """
    return streams[0] if len(streams) == 1 else grain.MapDataset.mix(streams, weights)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of every batch of a stream, in order; only these are prepared."""

    whole: grain.MapDataset
    batch_size: int
    rows: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of rows of all batches."""
        batches, rest = divmod(len(self.whole), self.batch_size)
        return batches * len(self.rows) + sum(row < rest for row in self.rows)

    def __getitem__(self, index: int) -> Any:
        """Return the element of one row."""
        batch, row = divmod(index, len(self.rows))
        return self.whole[batch * self.batch_size + self.rows[row]]
