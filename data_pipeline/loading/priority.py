"""The priority of the threads that prepare batches, beside a step that computes on the same cores.

A step on a CPU leaves cores idle now and then. Threads of a lower priority take only that time. At
the same priority they take turns with the step's threads, and each of its products waits for the
slowest of these.
"""

import dataclasses
import os
import sys
import threading
from typing import Any

import grain

_OWN = threading.local()  # `lowered`: whether this thread's priority is lowered


@dataclasses.dataclass(frozen=True)
class _Behind(grain.transforms.Map):
    """Lower the priority of each thread that prepares batches, after its first one."""

    niceness: int

    def map(self, batch: Any) -> Any:
        """Return the batch."""
        if not getattr(_OWN, "lowered", False):
            _OWN.lowered = True
            # on Linux a number names a single thread; threads that it starts later inherit this
            me = threading.get_native_id()
            now = os.getpriority(os.PRIO_PROCESS, me)  # which cannot be lowered again
            os.setpriority(os.PRIO_PROCESS, me, max(now, self.niceness))
        return batch


def behind(data: grain.MapDataset, niceness: int) -> grain.MapDataset:
    """Return `data`, whose batches are prepared by threads of that niceness, on Linux.

    With niceness 0, and on other systems, where threads have no priority of their own, return it
    unchanged.
    """
    return data.map(_Behind(niceness)) if niceness and sys.platform == "linux" else data
