"""Errors that say that memory, address space or threads are used up, and a check before the work.

A limit of the address space (RLIMIT_AS, `ulimit -v`) counts what libraries reserve, which is much
more than they use. Where it is too low, libraries in C++ abort or wait for ever for threads that
could not be started, so too low a limit is refused before they are loaded.
"""

import os
import re
import resource

from data_pipeline.io.errors import FailedRunError, first_line

GIB = 2**30
# address space that libraries reserve, in bytes: at all, and for each core, whose threads have
# stacks and heaps of their own
ANY = (GIB // 2, 0)  # of a command that imports numpy
DATA = (GIB, GIB // 8)  # of `cv3jax data`
MODELS = (4 * GIB, GIB // 4)  # of commands that load JAX, with the smallest models
_MEMORY = re.compile(
    "RESOURCE_EXHAUSTED|bad_alloc|cannot allocate memory|out of memory|failed to map segment"
    "|unable to allocate|memory allocation of",
    re.IGNORECASE,
)
_THREAD = re.compile(
    "can't start new thread|thread constructor failed|pthread_create", re.IGNORECASE
)
# what libraries raise for it; JAX's own error is a RuntimeError
_RAISED = (ImportError, RuntimeError, ValueError, SystemError)
_LESS = "free some memory on this machine and run the same command again"


def limit() -> int | None:
    """Return the limit of this process's address space in bytes, or None where there is none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def check_room(need: tuple[int, int], what: str) -> None:
    """Raise FailedRunError where the address space is limited to less than `need`.

    need: bytes at all, and for each core. what: what needs it, in words.
    """
    at_all, each = need
    least = at_all + each * (os.cpu_count() or 1)
    if (most := limit()) is not None and most < least:
        raise FailedRunError(
            f"the address space is limited to {_gib(most)} (ulimit -v), and {what} reserves up to"
            f" {_gib(least)} on this machine; raise the limit and run the same command again; to"
            " bound memory, use a cgroup (systemd-run -p MemoryMax=8G, docker run --memory 8g)"
        )


def used_up(e: BaseException) -> str | None:
    """Return the line for an error that says that there is no memory or thread left.

    None for any other error. The errors that led to it are looked at too.
    """
    seen = set()
    while e is not None and id(e) not in seen:
        seen.add(id(e))
        if isinstance(e, MemoryError):
            return _line("out of memory", str(e) and first_line(e))
        if isinstance(e, _RAISED):
            said = first_line(e, 1000)
            if _THREAD.search(said):
                return _line("no further thread can be started", said, "ulimit -u")
            if _MEMORY.search(said):
                return _line("out of memory", said)
        e = e.__cause__ or e.__context__
    return None


def _line(what: str, said: str, flag: str = "") -> str:
    """Return the line: what is used up, how it was said, and what would be right."""
    said = f" ({said[:200]})" if said else ""
    if (most := limit()) is not None:
        advice = f"the address space is limited to {_gib(most)} (ulimit -v); raise the limit"
        return f"{what}{said}; {advice} and run the same command again"
    if flag:
        return f"{what}{said}; raise the limit ({flag}) and run the same command again"
    return f"{what}{said}; {_LESS}"


def _gib(number: int) -> str:
    return f"{number / GIB:.1f} GiB"
