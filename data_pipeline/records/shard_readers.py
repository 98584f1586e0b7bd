"""Readers of ArrayRecord shards: opened when a record is asked for, and not all at once, whatever
the number of shards.
"""

import errno
import itertools
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from data_pipeline.io.errors import machine_error
from data_pipeline.io.open_files import room

_NUMBERS = itertools.count()


class OpenReaders:
    """The readers that were used last, at most `most` of them, of all datasets of a process.

    One that is in use by another thread stays open until that is done. Safe to use from many
    threads.
    """

    def __init__(self, most: int):
        self.most = most
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, int], ArrayRecordReader] = OrderedDict()
        self._gone: deque[int] = deque()  # owners whose readers are to be closed

    def __len__(self) -> int:
        return len(self._held)

    def get(self, owner: int, number: int, path: Path) -> ArrayRecordReader:
        """The reader of `owner`'s shard `number`, which is at `path`.

        Raises:
            OSError: the shard cannot be opened, and is not to blame.
        """
        with self._lock:
            self._close_gone()
            if (reader := self._held.get((owner, number))) is not None:
                self._held.move_to_end((owner, number))
                return reader
        reader = self._open(path)
        with self._lock:
            self._held[owner, number] = reader
            self._shrink(self.most)
        return reader

    def forget(self, owner: int) -> None:
        """Close the readers of `owner` when a reader is asked for next. Takes no lock, so that the
        garbage collector may call it anywhere.
        """
        self._gone.append(owner)

    def _close_gone(self) -> None:
        while self._gone:
            owner = self._gone.popleft()
            for key in [key for key in self._held if key[0] == owner]:
                del self._held[key]

    def _open(self, path: Path) -> ArrayRecordReader:
        while True:
            try:
                return open_reader(path)
            except OSError as e:
                with self._lock:
                    # something else in this process takes more files than it was left
                    if e.errno not in (errno.EMFILE, errno.ENFILE) or not self._held:
                        raise
                    self.most = max(1, len(self._held) // 2)
                    self._shrink(self.most if len(self._held) > 1 else 0)

    def _shrink(self, most: int) -> None:
        while len(self._held) > most:
            self._held.popitem(last=False)  # closes it, where no other thread reads


class ShardReaders:
    """The records of shards by number of shard and place in it; may be pickled."""

    def __init__(self, files: Sequence[Path]):
        self._files, self._owner = files, next(_NUMBERS)
        weakref.finalize(self, _open_readers().forget, self._owner)

    def __reduce__(self):
        return ShardReaders, (self._files,)

    def read(self, shard: int, place: int) -> bytes:
        """A record's bytes.

        Raises:
            OSError: the machine fails.
            RuntimeError, IndexError: the shard is damaged.
        """
        path = self._files[shard]
        reader = _open_readers().get(self._owner, shard, path)
        try:
            return reader.read([place])[0]
        except RuntimeError as e:
            if failed := machine_error(e, path):
                _open_readers().forget(self._owner)  # a reader that failed once fails for ever
                raise failed from e
            raise


def open_reader(path: Path) -> ArrayRecordReader:
    """A reader of one shard, for reading at random.

    Raises:
        OSError: it cannot be opened, and is not to blame. What is wrong with the shard itself shows
            when it is read.
    """
    reader = ArrayRecordReader(
        str(path), options="readahead_buffer_size:0", file_reader_buffer_size=32768
    )
    if not reader.ok():  # it says why when it is used
        try:
            reader.seek(0)
        except RuntimeError as e:
            if failed := machine_error(e, path):
                raise failed from e
    return reader


def count_records(path: Path) -> int:
    """How many records the shard at `path` has, by its index, which is written last.

    Raises:
        OSError: it cannot be read, and is not to blame.
        RuntimeError: it is damaged, or missing.
    """
    reader = open_reader(path)
    found = reader.num_records()
    reader.close()
    return found


_OPENED: list[OpenReaders] = []


def _open_readers() -> OpenReaders:
    if not _OPENED:
        _OPENED.append(OpenReaders(room()))
    return _OPENED[0]
