"""Test that the threads which prepare batches step back behind others, and the caller does not."""

import itertools
import os
import threading

import numpy as np
import pytest
from loaders import loader_of

from data_pipeline.io.errors import InputError

RECORDS = [{"image": b"", "key": str(i)} for i in range(64)]


def thread_of(source, index, rng, size):
    """Return the thread that prepares this example, and its niceness."""
    me = threading.get_native_id()
    return {"thread": np.array(me), "niceness": np.array(os.getpriority(os.PRIO_PROCESS, me))}


def seen(**settings):
    """Return {thread: its niceness in each of its examples, in order} of eight batches."""
    loader = loader_of(
        RECORDS,
        **{"batch_size": 4, "image_size": 8, "seed": 0, "prepare": thread_of, **settings},
    )
    found = {}
    try:
        for batch in itertools.islice(loader, 8):
            for thread, niceness in zip(batch["thread"], batch["niceness"], strict=True):
                found.setdefault(int(thread), []).append(int(niceness))
    finally:
        loader.close()
    return found


def test_threads_that_prepare_batches_step_back_after_their_first():
    own = os.getpriority(os.PRIO_PROCESS, 0)
    ((thread, values),) = seen(num_threads=1, prefetch=1, niceness=own + 3).items()
    assert thread != threading.get_native_id()
    assert values == [own] * 4 + [own + 3] * 28
    assert os.getpriority(os.PRIO_PROCESS, 0) == own
    ((_, values),) = seen(num_threads=1, prefetch=1).items()
    assert values == [own] * 32


def test_the_calling_thread_keeps_its_priority():
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert seen(num_threads=0, niceness=10) == {threading.get_native_id(): [own] * 32}
    with pytest.raises(InputError, match=r"niceness = 20: give 0\.\.19"):
        seen(niceness=20)
