"""Preparing batches in advance, by threads of this process or in worker processes with threads.

Both give the same batches. grain's own state of worker processes depends on their number. Here the
position is a number of batches, from which a new pipeline starts; so a run can resume with any
number of threads and processes.
"""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection, parent_process, resource_tracker
from typing import Any

import grain

from data_pipeline.loading.priority import behind

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names
# bytes: the size from which an allocation is a mapping of its own; the free memory that is kept
MAPPED, KEPT = 64 << 20, 256 << 20
# a terminal sends them to all of its processes, and the parent still finishes its step
OF_A_TERMINAL = (signal.SIGINT, signal.SIGHUP)


class _Unreached:
    """Batches of worker processes that a terminal's signals do not reach, also while they start.

    They start with the first batch, and import for seconds before `_begin` is called.
    """

    def __init__(self, batches: grain.DatasetIterator):
        self._batches, self._fresh = batches, True
        self.start_prefetch, self.close = batches.start_prefetch, batches.close

    def __iter__(self) -> "_Unreached":
        return self

    def __next__(self) -> Any:
        """Return the next batch; during the first one a signal has to wait for it."""
        if not self._fresh:
            return next(self._batches)
        self._fresh = False
        with _blocked():
            return next(self._batches)


def start(
    data: grain.MapDataset,
    position: int,
    *,
    threads: int,
    prefetch: int,
    workers: int,
    niceness: int = 0,
) -> grain.DatasetIterator | _Unreached:
    """Return an iterator over the batches of `data` from number `position` on.

    Args:
        data: the batches.
        position: the number of the first batch.
        threads: threads in this process or in each worker; 0: the calling thread.
        prefetch: the number of batches prepared in advance by all workers together; at least one
            each.
        workers: the number of processes; 0: none.
        niceness: of the threads, unless theirs is higher already; see `priority`. The calling
            thread keeps its own.

    Raises:
        IndexError: `data` has fewer batches.
    """
    if not 0 <= position <= len(data):
        raise IndexError(f"data position {position} is out of range: there are {len(data)} batches")
    _keep_memory()
    data = behind(data, niceness if threads else 0)
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=prefetch if threads else 0
    )
    if not workers:
        iterator = iter(data.to_iter_dataset(options))
        iterator.set_state({"next_index": position})
        return iterator
    _parse_flags()
    each = max(prefetch // workers, 1)
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=min(threads, each) if threads else 0
    )
    rest = data[position:].to_iter_dataset(options)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=each)
    return _Unreached(iter(rest.mp_prefetch(options, worker_init_fn=_begin)))


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Block a terminal's signals in this thread: threads and processes that it starts inherit it.

    This process still gets the signals, by its other threads.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_A_TERMINAL)
    try:
        # Python's own process, which lets SIGINT through again in the thread that starts it
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, OF_A_TERMINAL)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(worker: int, count: int) -> None:
    """Make a new worker end when its parent ends, in whatever way.

    grain's own worker would wait forever for a parent that was killed.
    """

    def watch() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
    for number in OF_A_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    _keep_memory()


def _keep_memory() -> None:
    """Make malloc keep the memory of one image for the next.

    Mapping and unmapping these megabytes took a tenth of the time. glibc adapts by itself, but only
    up to 32 MiB, and returns memory that is needed again at once. Other C libraries do not change.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def _parse_flags() -> None:
    """Mark absl's flags as parsed: grain reads them, and absl raises until they are parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
