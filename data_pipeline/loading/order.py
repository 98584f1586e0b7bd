"""The order of records: endless streams, mixed by weight, and the rows of each batch for one host.

A stream is a grain MapDataset. Its element at a position depends on the seed and the position
alone, so the position is its whole state.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from data_pipeline.loading.damaged import Cell, Picks

Weighted = Sequence[tuple[Cell, float]]  # cells and their shares


def epochs(cell: Cell, seed: int, *, shuffle: bool, count: int | None = None) -> grain.MapDataset:
    """Return the picks of a cell, `count` times or endlessly, each time in a new order.

    grain reseeds the shuffle for each epoch.
    """
    data = grain.MapDataset.source(Picks(cell)).seed(seed)
    return (data.shuffle() if shuffle else data).repeat(count)


def mixed(
    cells: Weighted, seed: int, *, shuffle: bool, label: tuple[int, ...] = ()
) -> grain.MapDataset:
    """Return endless picks of `cells`, mixed by their shares.

    Each cell runs through its own epochs, in an order that does not depend on shares or on other
    cells. `label` distinguishes the streams of one bucket from those of others.
    """

    def own(cell: Cell) -> int:
        return int(np.random.SeedSequence([seed, cell.part, *label]).generate_state(1)[0])

    return mix(
        [epochs(cell, own(cell), shuffle=shuffle) for cell, _ in cells],
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
