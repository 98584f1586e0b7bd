"""Memory in huge pages, kept between calls, for commands that compute on a CPU.

XLA takes the memory of a program's temporary arrays anew at every call. Linux hands it over in
pages of 4 KiB, each when it is first touched, so that a train step with gigabytes of them waits for
hundreds of thousands of pages. The C library can ask for pages of 2 MiB instead, and can keep what
was freed. But it reads these wishes only when a process begins. So a command replaces its process
by itself once, with the wishes in its environment. docs/benchmarks.md has what they save.
"""

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

WISH = "GLIBC_TUNABLES"
# pages of 2 MiB; large blocks on the heap; and what is freed there stays for the next call
VALUE = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1000000000000"
# what computes for long; for others, starting Python twice is not worth it
COMPUTING = ("train", "finetune", "distill", "quickstart", "sample", "upscale", "serve", "evaluate")
LEAST_GLIBC = (2, 35)  # the first that knows the wish
MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
DEVICES = ("nvidia[0-9]*", "dxg", "accel*", "vfio/[0-9]*")  # of GPUs and TPUs


def accelerated(devices: Path = Path("/dev")) -> bool:
    """Return whether this machine has the device of a GPU or a TPU."""
    return any(next(devices.glob(pattern), None) for pattern in DEVICES)


def useful(environment: MutableMapping[str, str]) -> bool:
    """Return whether the wishes would change anything, and nobody has set any already.

    It does where Linux gives huge pages to those who ask ("madvise"), the C library is glibc of
    2.35 or later, and no accelerator does the computing.
    """
    if WISH in environment or sys.platform != "linux":
        return False
    try:
        library, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        asked = "[madvise]" in MODE.read_text()
    except (OSError, ValueError):  # another C library, or a kernel without them
        return False
    known = library == "glibc" and tuple(map(int, version.split(".")[:2])) >= LEAST_GLIBC
    return known and asked and not accelerated()


def restart() -> None:
    """Replace this process by itself with the wishes for its memory, where that is useful.

    Process number, files and arguments stay. Call it before anything else is done. The wishes
    hold for the processes that this one starts too.
    """
    if sys.executable and useful(os.environ):
        os.environ[WISH] = VALUE
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
