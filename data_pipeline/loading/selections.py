"""Some records of a dataset, chosen by their sizes, without a list of all that are chosen.

Two billion indices would take 8 GB. Only their number in each piece of the dataset is kept, and the
indices in a piece are made again when one of them is asked for.
"""

import bisect
import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline.loading.bucket_sizes import Size
from data_pipeline.records.sizes import Sizes

PIECE = 2**16  # most records of a piece, whose numbers then take 2 bytes each
KEPT = 2**24  # indices that a selection keeps, in 32 MB
LEFT_OUT = 255  # the number of records that no bucket takes


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which bucket takes a picture of a size.

    Attributes:
        buckets: their sizes; empty: bucket 0 takes every picture that is large enough.
        min_side: pictures with a shorter side below it are left out.
    """

    buckets: tuple[Size, ...] = ()
    min_side: int = 0

    def __call__(self, shapes: np.ndarray) -> np.ndarray:
        """Return the number of each picture's bucket, uint8 [N]; LEFT_OUT where none takes it.

        shapes: int [N, 2], height and width.
        """
        found = assign(shapes, self.buckets) if self.buckets else np.zeros(len(shapes), np.uint8)
        if self.min_side:
            found[np.minimum(*shapes.T) < self.min_side] = LEFT_OUT
        return found


class Counted(NamedTuple):
    """The number of records of each bucket in each piece of a dataset."""

    sizes: Sizes
    choice: Choice
    cuts: np.ndarray  # int64 [P + 1]: where the pieces begin, and the end of the last
    counts: np.ndarray  # int32 [P, buckets]
    largest: int  # pixels of the longest shorter side


class Selected(Sequence):
    """The indices of the records in some buckets, ascending, as a sequence.

    It can be pickled, and is safe to use from many threads.
    """

    def __init__(self, counted: Counted, numbers: Sequence[int]):
        """Select the records in the buckets of these numbers."""
        self._counted, self._numbers = counted, tuple(numbers)
        inside = counted.counts[:, list(numbers)].sum(axis=1, dtype=np.int64)
        self._ends = np.concatenate([[0], np.cumsum(inside)])
        self._lock, self._kept, self._held = threading.Lock(), OrderedDict(), 0

    def __reduce__(self):
        """Return how to make the selection again in another process."""
        return Selected, (self._counted, self._numbers)

    def __len__(self) -> int:
        """Return the number of records."""
        return int(self._ends[-1])

    def __getitem__(self, place: int) -> int:
        """Return the index of a record."""
        place = range(len(self))[place]
        piece = bisect.bisect_right(self._ends, place) - 1
        start = int(self._counted.cuts[piece])
        return start + int(self._inside(piece)[place - int(self._ends[piece])])

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        """Return all indices, for datasets of which a process can hold them."""
        cuts = self._counted.cuts[:-1]
        parts = [int(cut) + self._inside(piece).astype(np.int64) for piece, cut in enumerate(cuts)]
        return np.concatenate(parts).astype(dtype or np.int64)

    def in_shards(self, lengths: Sequence[int]) -> np.ndarray:
        """Return the number of these records in each shard, int64 [S]; lengths: those of shards."""
        ends = np.concatenate([[0], np.cumsum(lengths)])
        return np.diff(self._ends[np.searchsorted(self._counted.cuts, ends)])

    def _inside(self, piece: int) -> np.ndarray:
        """Return the places in a piece of its records, uint16."""
        with self._lock:
            if (known := self._kept.get(piece)) is not None:
                self._kept.move_to_end(piece)
                return known
        cuts = self._counted.cuts
        numbers = self._counted.choice(self._counted.sizes.rows(*map(int, cuts[piece : piece + 2])))
        table = np.zeros(256, bool)
        table[list(self._numbers)] = True
        found = np.flatnonzero(table[numbers]).astype(np.uint16)
        with self._lock:
            if piece not in self._kept:
                self._kept[piece] = found
                self._held += len(found)
            while self._held > KEPT and len(self._kept) > 1:
                self._held -= len(self._kept.popitem(last=False)[1])
        return found


def count(sizes: Sizes, lengths: Sequence[int], choice: Choice) -> Counted:
    """Count the records of each bucket, piece after piece.

    lengths: the number of records of each shard; no piece has records of two shards. Raises
    InputError where the sizes are damaged.
    """
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    cuts = np.unique(np.concatenate([ends, np.arange(0, ends[-1], PIECE)]))
    buckets = max(1, len(choice.buckets))
    counts, largest = np.zeros((len(cuts) - 1, buckets), np.int32), 0
    for piece, (start, stop) in enumerate(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)):
        shapes = sizes.rows(start, stop)
        numbers = choice(shapes)
        counts[piece] = [np.count_nonzero(numbers == bucket) for bucket in range(buckets)]
        largest = max(largest, int(np.minimum(*shapes.T).max()))
    return Counted(sizes, choice, cuts, counts, largest)


def assign(shapes: np.ndarray, buckets: Sequence[Size]) -> np.ndarray:
    """Return the index of the bucket whose log aspect ratio is nearest to that of each image.

    shapes: int [N, 2], height and width. Result: uint8 [N].
    """
    order, edges = _edges(tuple(buckets))
    ratios = shapes[:, 0] / shapes[:, 1]
    above = np.zeros(len(ratios), np.uint8)
    for edge in edges:  # a comparison a time is much faster than searchsorted, and than a logarithm
        above += ratios >= edge
    return order[above]


@functools.lru_cache(16)
def _edges(buckets: tuple[Size, ...]) -> tuple[np.ndarray, list[float]]:
    """Return the buckets by aspect ratio, uint8, and the least ratio of each but the first."""
    ratios = np.log([height / width for height, width in buckets])
    order = np.argsort(ratios)
    least = []
    for edge in (ratios[order][1:] + ratios[order][:-1]) / 2:
        # the smallest number whose logarithm is above the middle between two buckets
        low, high = np.exp(edge) * (1 - 1e-9), np.exp(edge) * (1 + 1e-9)
        while low < (middle := (low + high) / 2) < high:
            low, high = (low, middle) if np.log(middle) > edge else (middle, high)
        least.append(float(high))
    return order.astype(np.uint8), least
