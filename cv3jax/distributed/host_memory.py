"""How much memory this process may still take of its host."""

from collections.abc import Iterator
from pathlib import Path

import psutil

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# where a container, a Slurm job or a service has its limit: what it may take, and what it took, by
# the version of control groups
_FILES = {
    2: ("memory.max", "memory.current"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}


def free_bytes(groups: Path = GROUPS, own: Path = OWN) -> int:
    """Bytes that are free on the host, or fewer where a limit of this process is nearer.

    groups: where control groups are mounted. own: which of them are this process's.
    """
    return max(min([psutil.virtual_memory().available, *_within_limits(groups, own)]), 0)


def _within_limits(groups: Path, own: Path) -> Iterator[int]:
    """Yield the bytes that each limit leaves: of the process's groups and of their parents."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no Linux
        return
    for number, names, path in (line.split(":", 2) for line in lines):
        if number == "0":
            version, root = 2, groups
        elif "memory" in names.split(","):
            version, root = 1, groups / "memory"
        else:
            continue
        # a container sees its own group as the root, under the name that it has outside
        place = root / path.strip("/")
        for folder in (place, *(above for above in place.parents if above.is_relative_to(root))):
            try:
                most, taken = (int((folder / name).read_text()) for name in _FILES[version])
                stat = (folder / "memory.stat").read_text()
            except (OSError, ValueError):  # not there, or "max", which is no limit
                continue
            yield most - taken + _filed(stat, version)


def _filed(stat: str, version: int) -> int:
    """Bytes of what was taken that are copies of files, and make room when somebody wants it."""
    total = "total_" if version == 1 else ""  # with the groups within it
    lines = (line.split() for line in stat.splitlines())
    names = (f"{total}inactive_file", f"{total}active_file")
    return sum(int(line[1]) for line in lines if line[0] in names)
