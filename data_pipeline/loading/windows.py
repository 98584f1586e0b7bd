"""The order of records that reads shards one after the other: `data.shuffle="windows:64"`.

An epoch goes through all shards in random order, cut into windows of at most so many shards. The
records of a window come in random order before those of the next one. Every record comes once in an
epoch. A position's record depends on the seed and the position alone, so the position is the whole
state, on any number of hosts.

Each row of a batch reads a stretch of its own in each window: row r of B rows reads one in B of the
window's records, in random order. So each batch has records from all of a window's shards, and a
host that has one in H of the rows needs only about one in H of the shards.
"""

import bisect
import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_ROUNDS = 6  # of the permutation of records
_WORD = 2**64 - 1


class Place(NamedTuple):
    """Where a position of the order leads."""

    shard: int
    record: int  # of those in the shard
    window: int  # counted through all epochs


class _Epoch(NamedTuple):
    """The order of shards in one epoch."""

    shards: np.ndarray  # int32 [S]
    ends: np.ndarray  # int64 [S + 1]: records before each shard of that order
    starts: list[int]  # records before each window


class _Row(NamedTuple):
    """What a row of the batches reads of a window."""

    start: int  # in the window's records
    count: int


@dataclasses.dataclass(frozen=True)
class WindowOrder:
    """The endless order of records in shards.

    Attributes:
        counts: the number of records in each shard, int64 [S]; at least one record in all.
        window: the most shards of a window.
        seed: the seed of the order of shards.
        label: numbers that distinguish this order within windows from others over the same shards.
        rows: the rows of a batch; 1 where positions are not rows of batches.
    """

    counts: np.ndarray
    window: int
    seed: int
    label: tuple[int, ...] = ()
    rows: int = 1

    def __len__(self) -> int:
        """Return the number of records in an epoch."""
        return self._count

    @functools.cached_property
    def windows(self) -> int:
        """Return the number of windows in an epoch."""
        return -(-len(self.counts) // self.window)

    def place(self, position: int) -> Place:
        """Return where `position` of the endless order leads."""
        number, within = divmod(position, self._count)
        epoch = self._epoch(number)
        window = bisect.bisect_right(epoch.starts, within) - 1
        first, last = self._edges[window], self._edges[window + 1]
        start = epoch.starts[window]
        count, place = int(epoch.ends[last]) - start, within - start
        turn = (number * self._count + start) % self.rows
        row = (turn + place) % self.rows
        stretch = self._row(count, turn, row)
        key = _mixed(self._draws(number) + window * self.rows + row)
        record = start + stretch.start + shuffled(place // self.rows, stretch.count, key)
        at = int(np.searchsorted(epoch.ends[first : last + 1], record, "right")) - 1 + first
        return Place(
            int(epoch.shards[at]), record - int(epoch.ends[at]), number * self.windows + window
        )

    def start(self, window: int) -> int:
        """Return the first position of a window, counted through all epochs."""
        number, within = divmod(window, self.windows)
        return number * self._count + self._epoch(number).starts[within]

    def shards(self, window: int, rows: Sequence[int] | None = None) -> list[int]:
        """Return the shards that some rows (None: all) read in a window, counted as in `Place`."""
        number, within = divmod(window, self.windows)
        epoch = self._epoch(number)
        first, last = self._edges[within], self._edges[within + 1]
        ends = epoch.ends[first : last + 1]
        if rows is None or self.rows == 1:
            rows = range(self.rows)
        start, count = int(ends[0]), int(ends[-1] - ends[0])
        turn = (number * self._count + start) % self.rows
        read = np.zeros(last - first, bool)
        for begin, end in _stretches(rows):
            low = self._row(count, turn, begin).start + start
            high = sum(self._row(count, turn, end - 1)) + start
            read |= (ends[1:] > low) & (ends[:-1] < high)
        return epoch.shards[first:last][read].tolist()

    @functools.cached_property
    def _count(self) -> int:
        return int(self.counts.sum())

    @functools.cached_property
    def _edges(self) -> list[int]:
        # windows of even numbers of shards, so that the last one is not a small rest
        return [number * len(self.counts) // self.windows for number in range(self.windows + 1)]

    @functools.cached_property
    def _known(self) -> dict[int, _Epoch]:
        return {}

    def _epoch(self, number: int) -> _Epoch:
        if (known := self._known.get(number)) is not None:
            return known
        draws = _all_mixed(_word(self.seed, number) + np.arange(len(self.counts), dtype=np.uint64))
        shards = np.argsort(draws, kind="stable").astype(np.int32)
        ends = np.concatenate([[0], np.cumsum(self.counts[shards])])
        for old in list(self._known)[:-1]:  # the last two are needed where one ends
            self._known.pop(old, None)
        self._known[number] = _Epoch(shards, ends, ends[self._edges[:-1]].tolist())
        return self._known[number]

    def _draws(self, number: int) -> int:
        return int(_word(self.seed, number, 1, *self.label))

    def _row(self, count: int, turn: int, row: int) -> _Row:
        """Return what `row` reads of a window of `count` records that begins with row `turn`."""
        each, more = divmod(count, self.rows)
        # of the rows turn, turn + 1, …, the first `more` have one record more
        before = max(0, min(row, turn + more) - turn) + max(0, min(row, turn + more - self.rows))
        return _Row(row * each + before, each + ((row - turn) % self.rows < more))

    def __reduce__(self):
        """Return how to make the order again in another process, without what it has computed."""
        return WindowOrder, (self.counts, self.window, self.seed, self.label, self.rows)


def shuffled(index: int, count: int, key: int) -> int:
    """Return where a permutation of 0..count - 1 takes `index`; key: 64 bits that choose it.

    It is a Feistel network, walked until it is in range (Black & Rogaway, 2002). grain's takes half
    a millisecond where there are few numbers, as in a row's part of a window.
    """
    half = max(1, (count - 1).bit_length() + 1 >> 1)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ _mixed(key + (turn << 56) + right) & mask
        index = left << half | right
        if index < count:
            return index


def _stretches(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending rows as (first, last + 1) of those that follow each other."""
    cuts = np.flatnonzero(np.diff(np.asarray(rows)) > 1) + 1
    return [(int(some[0]), int(some[-1]) + 1) for some in np.split(np.asarray(rows), cuts)]


@functools.lru_cache(64)
def _word(*numbers: int) -> np.uint64:
    """Return 64 bits that depend on all numbers (numpy promises that they stay the same)."""
    return np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]


def _mixed(x: int) -> int:
    """Return the finalizer of splitmix64 (Steele et al., 2014) of a number."""
    x &= _WORD
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _WORD
    return x ^ (x >> 31)


def _all_mixed(x: np.ndarray) -> np.ndarray:
    """Return `_mixed` of each number of an array of uint64, which wrap around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
