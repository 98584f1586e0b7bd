"""In which order records come: endless streams of them, mixed by weight, and the rows of each batch
that one host reads.

A stream is a grain MapDataset: what is at each position follows from seed and position alone, so a
position is all its state.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from data_pipeline.loading.damaged import Cell, Picks

Weighted = Sequence[tuple[Cell, float]]  # cells and their shares


def epochs(cell: Cell, seed: int, *, shuffle: bool, count: int | None = None) -> grain.MapDataset:
    """The picks of a cell, `count` times or for ever, each time in a new order: grain reseeds the
    shuffle by epoch.
    """
    data = grain.MapDataset.source(Picks(cell)).seed(seed)
    return (data.shuffle() if shuffle else data).repeat(count)


def mixed(
    cells: Weighted, seed: int, *, shuffle: bool, label: tuple[int, ...] = ()
) -> grain.MapDataset:
    """Endless picks of `cells` by their shares.

    Every cell's come in epochs of its own, the same whatever its share and the others are.

    `label` tells a bucket's streams from those of the others.
    """

    def own(cell: Cell) -> int:
        return int(np.random.SeedSequence([seed, cell.part, *label]).generate_state(1)[0])

    return mix(
        [epochs(cell, own(cell), shuffle=shuffle) for cell, _ in cells],
        [weight for _, weight in cells],
    )


def mix(streams: Sequence[grain.MapDataset], weights: Sequence[float]) -> grain.MapDataset:
    """Endless streams as one.

    Of any stretch of it each has its share to within one or two elements, and misses or repeats
    none.
    """
    return streams[0] if len(streams) == 1 else grain.MapDataset.mix(streams, weights)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of every batch of a stream, one after the other; only what is asked for is
    prepared.
    """

    whole: grain.MapDataset
    batch_size: int
    rows: tuple[int, ...]

    def __len__(self) -> int:
        batches, rest = divmod(len(self.whole), self.batch_size)
        return batches * len(self.rows) + sum(row < rest for row in self.rows)

    def __getitem__(self, index: int) -> Any:
        batch, row = divmod(index, len(self.rows))
        return self.whole[batch * self.batch_size + self.rows[row]]
