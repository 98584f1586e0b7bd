"""Test how much memory of its host a process may still take.

That is the free memory, or the rest below its nearest limit.
"""

from pathlib import Path

import psutil
import pytest

from cv3jax.distributed.host_memory import free_bytes

MB = 10**6
TWO, ONE = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
UNLIMITED = str(2**63 - 4096)  # version 1's


def group(folder: Path, names, most: str, taken: int, *filed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{most}\n")
    (folder / names[1]).write_text(f"{taken}\n")
    inactive, active = filed or (0, 0)
    total = "total_" if names == ONE else ""
    other = "inactive_file 7\n" if total else ""  # of this group alone
    stat = f"anon 5\n{other}{total}inactive_file {inactive}\n{total}active_file {active}\n"
    (folder / "memory.stat").write_text(stat)


# name → (what /proc/self/cgroup says, [group below the mount, its files and numbers], what is free)
GROUPS = {
    "a container": ("0::/\n", [("", TWO, str(9 * MB), 2 * MB)], 7 * MB),
    "full of copies of files": ("0::/\n", [("", TWO, str(9 * MB), 9 * MB, 5 * MB, 3 * MB)], 8 * MB),
    "no limit": ("0::/\n", [("", TWO, "max", 2 * MB)], None),
    "a Slurm job": (
        "0::/system.slice/slurmstepd.scope/job_7/step_0\n",
        [
            ("system.slice/slurmstepd.scope/job_7/step_0", TWO, "max", MB),
            ("system.slice/slurmstepd.scope/job_7", TWO, str(4 * MB), 3 * MB, 0, MB),
            ("system.slice", TWO, str(90 * MB), 30 * MB),
        ],
        2 * MB,
    ),
    "version 1": (
        "9:cpu:/\n4:cpuset,memory:/job\n0::/\n",
        [
            ("memory/job", ONE, str(6 * MB), 5 * MB, MB, MB),
            ("memory", ONE, UNLIMITED, 50 * MB),
        ],
        3 * MB,
    ),
    "version 1 in a container": (
        "4:memory:/docker/abc\n",
        [("memory", ONE, str(6 * MB), 4 * MB)],
        2 * MB,
    ),
    "over its limit": ("0::/\n", [("", TWO, str(2 * MB), 3 * MB)], 0),
    "no control groups": (None, [], None),
    "no numbers": ("0::/\n", [("", TWO, "many", 0)], None),
}


@pytest.mark.parametrize("name", GROUPS)
def test_the_nearest_limit_counts_without_copies_of_files(name, tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": 80 * MB}))
    said, groups, free = GROUPS[name]
    for folder, *rest in groups:
        group(tmp_path / folder, *rest)
    own = tmp_path / "own"
    if said is not None:
        own.write_text(said)
    assert free_bytes(tmp_path, own) == (80 * MB if free is None else free)
