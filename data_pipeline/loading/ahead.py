"""Fetching shards of a bucket before the order of records reaches them."""

import threading
from collections.abc import Sequence
from typing import Protocol

from data_pipeline.io.errors import InputError
from data_pipeline.loading.settings import LoaderSettings
from data_pipeline.loading.windows import WindowOrder


class Fetched(Protocol):
    """What a dataset whose shards are fetched has beside its records."""

    name: str

    def want(self, stream: tuple[int, ...], now: list[int], then: list[int]) -> None:
        """Fetch the shards that a stream reads now, and then those that it reads next."""

    room: int  # bytes that the shards of all datasets may take on the disk

    def needed(self, window: int, share: float) -> int:
        """Return the bytes of two windows of shards, or of all shards where `window` is 0."""


class Ahead:
    """What one stream of a dataset reads now and next. Safe to use from many threads.

    Positions are prepared by several threads, so they arrive out of order, but no more than `reach`
    apart.
    """

    def __init__(
        self,
        source: Fetched,
        order: WindowOrder,
        rows: Sequence[int],
        reach: int,
        stream: tuple[int, ...],
    ):
        """Start before the first position. rows: those of each batch that are read here."""
        self._given = (source, order, rows, reach, stream)
        self._source, self._order, self._rows, self._reach, self._stream = self._given
        self._lock, self._now = threading.Lock(), (-1, -1)
        self._settled = 0  # the position from which on nothing before the last window is read

    def __reduce__(self):
        """Return how to start again in another process."""
        return Ahead, self._given

    def at(self, position: int, window: int) -> None:
        """Tell that a position is prepared, whose record is in `window`."""
        first, last = self._now
        if window == last and (first == last or position < self._settled):
            return
        with self._lock:
            first, last = self._now
            if window > last:
                self._move(last if window == last + 1 and last >= 0 else window, window)
            elif window == last and first < last and position >= self._settled:
                self._move(last, last)
            elif position < self._settled - 2 * self._reach:  # the loader was set back
                self._move(window, window)

    def _move(self, first: int, last: int) -> None:
        """Ask for the shards of one or two windows, and for those of the window after them."""
        self._now, self._settled = (first, last), self._order.start(last) + self._reach
        now = [shard for window in {first: 0, last: 0} for shard in self._shards(window)]
        self._source.want(self._stream, list(dict.fromkeys(now)), self._shards(last + 1))

    def _shards(self, window: int) -> list[int]:
        return self._order.shards(window, self._rows)


def check_order(parts: Sequence[Sequence], settings: LoaderSettings, share: float) -> None:
    """Raise InputError where the shards of a bucket cannot be read in the order of the settings.

    share: the share of each batch that is read here.
    """
    fetched = [part for part in parts if hasattr(part, "want")]
    if not fetched or not settings.shuffle:
        return
    share, room = share if len(parts) == 1 else 1.0, fetched[0].room
    needed = sum(part.needed(settings.window, share) for part in fetched)
    if needed <= room:
        return
    names, sizes = " and ".join(part.name for part in fetched), f"{needed / 1e9:.3g} GB"
    if not settings.window:
        raise InputError(
            f"{names}: a global shuffle of records in a bucket would fetch a shard for each record;"
            f' set data.shuffle="windows:64", or a data.cache_gb that holds all of it ({sizes})'
        )
    raise InputError(
        f"data.cache_gb = {room / 1e9:g} holds less than two windows of {settings.window} shards of"
        f" {names}, one that is read and one that is fetched ({sizes}); give more, or a smaller"
        " window in data.shuffle"
    )
