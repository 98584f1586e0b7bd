"""The shards of a dataset in a bucket: fetched whole to this host's disk, before they are read."""

import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.store import Store
from data_pipeline.records.shard_cache import ShardCache

FETCHERS = 4  # threads of a process that fetch ahead


class Fetching:
    """Shards by their numbers. It can be pickled, and is safe to use from many threads."""

    def __init__(self, address: str, cache: ShardCache, paths: Sequence[Path], sizes: list[int]):
        """Start without a fetched shard.

        paths: where each shard is in the cache; its name is that in the bucket. sizes: bytes.
        """
        self.address, self.cache, self.paths, self.sizes = address, cache, paths, sizes
        self._lock, self._store = threading.Lock(), None
        self._queue: deque[int] = deque()
        self._running = 0
        self._streams: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}

    def __reduce__(self):
        """Return how to fetch from another process."""
        return Fetching, (self.address, self.cache, self.paths, self.sizes)

    def fetch(self, shard: int, *, ahead: bool = False) -> bool:
        """Have a shard on the disk; `ahead` and the result are as in `ShardCache.get`.

        Raises:
            InputError: the bucket has no such shard any more.
            OSError: the store or the disk fails.
        """
        path = self.paths[shard]
        try:
            return self.cache.get(
                path,
                self.sizes[shard],
                lambda place: self._open_store().download(path.name, place),
                ahead=ahead,
            )
        except FileNotFoundError as e:
            raise InputError(
                f"shard {self.address}/{path.name} is no longer there; restore the object or build"
                " the dataset again"
            ) from e

    def want(self, stream: tuple[int, ...], now: list[int], then: list[int]) -> set[int]:
        """Fetch the shards that a stream of this process reads now, and then the next ones.

        Returns the shards that all of its streams read now.
        """
        with self._lock:
            self._streams[stream] = (now, then)
            first, later = (
                list(dict.fromkeys(x for pair in self._streams.values() for x in pair[part]))
                for part in (0, 1)
            )
            name, path_of = self.paths[0].parent.name, self.paths.__getitem__
            self.cache.use(name, map(path_of, first), map(path_of, later))
            self._queue = deque(dict.fromkeys([*first, *later]))
            for _ in range(min(FETCHERS, len(self._queue)) - self._running):
                self._running += 1
                threading.Thread(target=self._work, name="shards", daemon=True).start()
        return set(first)

    def _work(self) -> None:
        """Fetch what is in the queue, then end."""
        while True:
            with self._lock:
                if not self._queue:
                    self._running -= 1
                    return
                shard = self._queue.popleft()
            # whoever reads the shard tries again, and then it is an error
            with contextlib.suppress(InputError, OSError):
                self.fetch(shard, ahead=True)

    def _open_store(self) -> Store:
        with self._lock:
            if self._store is None:
                self._store = Store(self.address)
            return self._store
