"""Readers of ArrayRecord shards that are opened on demand, so that any number of shards works."""

import errno
import itertools
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Sequence
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from data_pipeline.io.errors import machine_error
from data_pipeline.io.open_files import room

_NUMBERS = itertools.count()


class OpenReaders:
    """The most recently used readers of all datasets of a process, at most `most` of them.

    A reader that another thread is using stays open until that is done. Safe to use from many
    threads.
    """

    def __init__(self, most: int):
        """Start without readers."""
        self.most = most
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, int], ArrayRecordReader] = OrderedDict()
        self._gone: deque[int] = deque()  # owners whose readers are to be closed

    def __len__(self) -> int:
        """Return the number of open readers."""
        return len(self._held)

    def get(
        self, owner: int, number: int, path: Path, fetch: Callable[[int], object] | None = None
    ) -> ArrayRecordReader:
        """Return the reader of `owner`'s shard `number`, which is at `path`.

        fetch: called with the number before the shard is opened.

        Raises:
            OSError: the shard cannot be opened because the machine fails.
        """
        with self._lock:
            self._close_gone()
            if (reader := self._held.get((owner, number))) is not None:
                self._held.move_to_end((owner, number))
                return reader
        reader = self._open(path) if fetch is None else self._fetched(number, path, fetch)
        with self._lock:
            self._held[owner, number] = reader
            self._shrink(self.most)
        return reader

    def close(self, owner: int, chosen: Callable[[int], bool]) -> None:
        """Close the readers of `owner`'s chosen shards, once no thread is using them."""
        with self._lock:
            for key in [key for key in self._held if key[0] == owner and chosen(key[1])]:
                del self._held[key]

    def forget(self, owner: int) -> None:
        """Mark the readers of `owner` to be closed when a reader is next requested.

        It takes no lock, so that the garbage collector may call it at any time.
        """
        self._gone.append(owner)

    def _close_gone(self) -> None:
        """Close the readers that are marked."""
        while self._gone:
            owner = self._gone.popleft()
            for key in [key for key in self._held if key[0] == owner]:
                del self._held[key]

    def _open(self, path: Path) -> ArrayRecordReader:
        """Open a reader; where too many files are open, close others and try again."""
        while True:
            try:
                return open_reader(path)
            except OSError as e:
                with self._lock:
                    # other code of this process opened more files than were left for it
                    if e.errno not in (errno.EMFILE, errno.ENFILE) or not self._held:
                        raise
                    self.most = max(1, len(self._held) // 2)
                    self._shrink(self.most if len(self._held) > 1 else 0)

    def _fetched(
        self, number: int, path: Path, fetch: Callable[[int], object]
    ) -> ArrayRecordReader:
        """Open a reader of a shard that another process may remove after it was fetched."""
        while True:
            fetch(number)
            try:
                reader = self._open(path)
            except FileNotFoundError:
                continue
            if reader.ok() or path.exists():
                return reader

    def _shrink(self, most: int) -> None:
        """Drop the least recently used readers until at most `most` remain."""
        while len(self._held) > most:
            self._held.popitem(last=False)  # closes it unless another thread is reading


class ShardReaders:
    """The records of shards, by the number of the shard and the place in it. It can be pickled."""

    def __init__(self, files: Sequence[Path], fetch: Callable[[int], object] | None = None):
        """Start with these files, none of which is opened yet.

        fetch: called with the number of a shard before it is opened, where its file may not be
            there.
        """
        self._files, self._fetch, self._owner = files, fetch, next(_NUMBERS)
        weakref.finalize(self, _open_readers().forget, self._owner)

    def __reduce__(self):
        """Return how to make the readers again in another process."""
        return ShardReaders, (self._files, self._fetch)

    def read(self, shard: int, place: int) -> bytes:
        """Return a record's bytes.

        Raises:
            OSError: the machine fails.
            RuntimeError, IndexError: the shard is damaged.
        """
        path = self._files[shard]
        reader = _open_readers().get(self._owner, shard, path, self._fetch)
        try:
            return reader.read([place])[0]
        except RuntimeError as e:
            if failed := machine_error(e, path):
                _open_readers().forget(self._owner)  # a reader that failed once fails forever
                raise failed from e
            raise

    def keep(self, shards: Container[int]) -> None:
        """Close the readers of other shards."""
        _open_readers().close(self._owner, lambda shard: shard not in shards)

    def close(self, shard: int) -> None:
        """Close the reader of a shard, if it is open."""
        _open_readers().close(self._owner, lambda one: one == shard)


def open_reader(path: Path) -> ArrayRecordReader:
    """Return a reader of one shard for random access.

    Raises:
        OSError: the shard cannot be opened because the machine fails. Damage of the shard itself
            shows when it is read.
    """
    reader = ArrayRecordReader(
        str(path), options="readahead_buffer_size:0", file_reader_buffer_size=32768
    )
    if not reader.ok():  # using the reader raises the reason
        try:
            reader.seek(0)
        except RuntimeError as e:
            if failed := machine_error(e, path):
                raise failed from e
    return reader


def count_records(path: Path) -> int:
    """Return the number of records of the shard at `path`, by its index, which is written last.

    Raises:
        OSError: the shard cannot be read because the machine fails.
        RuntimeError: the shard is damaged or missing.
    """
    reader = open_reader(path)
    found = reader.num_records()
    reader.close()
    return found


_OPENED: list[OpenReaders] = []


def _open_readers() -> OpenReaders:
    """Return the readers of this process."""
    if not _OPENED:
        _OPENED.append(OpenReaders(room()))
    return _OPENED[0]
