"""Batches prepared ahead, by threads of this process or by processes with threads of their own: the
same batches either way.

grain's own state of worker processes depends on how many they are. Here the position is a number of
batches, and the pipeline is made anew from there; so a run goes on with any number of either.
"""

import ctypes
import os
import threading
from multiprocessing import connection, parent_process

import grain

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names
# bytes: allocations from which on each is a mapping of its own; free ones that are kept
MAPPED, KEPT = 64 << 20, 256 << 20


def start(
    data: grain.MapDataset, position: int, *, threads: int, prefetch: int, workers: int
) -> grain.DatasetIterator:
    """An iterator over the batches of `data` from number `position` on.

    Args:
        threads: in this process, or in each worker; 0: none beside the one that asks.
        prefetch: batches prepared ahead, of all workers together; at least one each.
        workers: processes; 0: none.

    Raises:
        IndexError: `data` has fewer batches.
    """
    if not 0 <= position <= len(data):
        raise IndexError(f"data position {position} is out of range: there are {len(data)} batches")
    _keep_memory()
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
    return iter(
        rest.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=each),
            worker_init_fn=_begin,
        )
    )


def _begin(worker: int, count: int) -> None:
    """In a new worker: end when its parent does, however that ends. grain's would wait for ever for
    one that was killed.
    """

    def watch() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
    _keep_memory()


def _keep_memory() -> None:
    """Have malloc keep what one image leaves for the next: mapping and unmapping its megabytes took
    a tenth of the time.

    glibc goes there by itself, but up to 32 MiB only, and gives memory back that is wanted again at
    once. Other libraries are left alone.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def _parse_flags() -> None:
    """grain reads flags of absl's, which raise unless somebody has parsed a command line."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
