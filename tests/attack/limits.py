"""Limits of the machine under which a command is started, and how each of them is lifted.

Small file systems and a /dev of its own are mounted, which needs root.
"""

import contextlib
import dataclasses
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

# seconds from the start of a process, and how far the clock is moved then
CLOCK = """
import time
real, began, moves = time.time, time.monotonic(), {moves}


def moved():
    since = time.monotonic() - began
    return real() + sum(by for at, by in moves if since >= at)


time.time = moved
time.time_ns = lambda: int(moved() * 1e9)
"""
# a /dev with everything but the shared memory
NO_SHM = """
new=$1; shift
mount -t tmpfs none "$new" || exit 125
for each in null zero full random urandom tty; do
    : > "$new/$each"; mount --bind "/dev/$each" "$new/$each" || exit 125
done
ln -s /proc/self/fd "$new/fd"
mount --move "$new" /dev || exit 125
exec "$@"
"""
SMALL_SHM = 'mount -t tmpfs -o size=4k none /dev/shm || exit 125; exec "$@"'
ROOMY = "size=256m,nr_inodes=100000"


@dataclasses.dataclass(frozen=True)
class Place:
    """How a command is started under a limit.

    before: what stands before the command's words. out: where it writes. again: where the same
    command writes when `lift` was called, which ends the limit. said: the limit in words.
    """

    out: Path
    said: str
    before: tuple[str, ...] = ()
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    again: Path | None = None
    lift: Callable[[], None] = lambda: None


@dataclasses.dataclass(frozen=True)
class Size:
    """What a command writes without a limit: bytes and files."""

    bytes: int
    files: int


Limit = Callable[[Path, random.Random, Size], contextlib.AbstractContextManager[Place]]


def _shell(script: str, *words: str) -> tuple[str, ...]:
    return ("sh", "-c", f'{script}; exec "$@"', "sh", *words)


@contextlib.contextmanager
def open_files(folder: Path, rng: random.Random, size: Size) -> Iterator[Place]:
    """Allow 64 open files."""
    yield Place(folder / "out", "ulimit -n 64", _shell("ulimit -n 64"))


@contextlib.contextmanager
def address_space(folder: Path, rng: random.Random, size: Size) -> Iterator[Place]:
    """Allow 0.2 to 5 GiB of address space, where allocations fail early, late or never."""
    room = int(2**20 * rng.uniform(0.2, 5))
    yield Place(folder / "out", f"ulimit -v {room}", _shell(f"ulimit -v {room}"))


@contextlib.contextmanager
def no_shared_memory(folder: Path, rng: random.Random, size: Size) -> Iterator[Place]:
    """Give a /dev without shm, or one with a shm of a single page."""
    (folder / "dev").mkdir()
    if rng.random() < 0.5:
        words = ("unshare", "-m", "sh", "-c", NO_SHM, "sh", str(folder / "dev"))
        yield Place(folder / "out", "no /dev/shm", words)
    else:
        yield Place(
            folder / "out", "small /dev/shm", ("unshare", "-m", "sh", "-c", SMALL_SHM, "sh")
        )


@contextlib.contextmanager
def _disk(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """Mount a small file system on `folder`; yield what mounts it again with other options."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def full_disk(folder: Path, rng: random.Random, size: Size) -> Iterator[Place]:
    """Give a disk of less room than the command needs."""
    room = 4096 * max(1, int(size.bytes * rng.uniform(0, 1) / 4096))
    with _disk(folder / "disk", f"size={room}") as remount:
        yield Place(folder / "disk" / "out", f"a disk of {room} bytes", lift=lambda: remount(ROOMY))


@contextlib.contextmanager
def no_inodes(folder: Path, rng: random.Random, size: Size) -> Iterator[Place]:
    """Give a disk of fewer inodes than the command needs."""
    count = rng.randint(2, max(2, size.files))
    with _disk(folder / "disk", f"size=256m,nr_inodes={count}") as remount:
        yield Place(
            folder / "disk" / "out", f"a disk of {count} inodes", lift=lambda: remount(ROOMY)
        )


@contextlib.contextmanager
def read_only(folder: Path, rng: random.Random, size: Size) -> Iterator[Place]:
    """Give a disk that cannot be written."""
    with _disk(folder / "disk", ROOMY) as remount:
        remount("ro")
        yield Place(folder / "disk" / "out", "a disk mounted ro", lift=lambda: remount("rw"))


@contextlib.contextmanager
def full_caches(folder: Path, rng: random.Random, size: Size) -> Iterator[Place]:
    """Give a full disk for temporary files and for compiled programs."""
    with _disk(folder / "disk", "size=4k") as _:
        (folder / "disk" / "filler").write_bytes(bytes(4096))
        names = rng.sample(("TMPDIR", "JAX_COMPILATION_CACHE_DIR"), rng.randint(1, 2))
        environment = dict.fromkeys(names, str(folder / "disk"))
        yield Place(folder / "out", f"a full {' and '.join(names)}", environment=environment)


@contextlib.contextmanager
def clock_jumps(folder: Path, rng: random.Random, size: Size) -> Iterator[Place]:
    """Move the clock by up to 30 days to and fro, every few tenths of a second."""
    days = 86_400.0
    moves = [(rng.uniform(0, 15), rng.uniform(-30, 30) * days) for _ in range(40)]
    (folder / "python").mkdir()
    (folder / "python" / "sitecustomize.py").write_text(CLOCK.format(moves=moves))
    path = os.pathsep.join([str(folder / "python"), os.environ.get("PYTHONPATH", "")])
    yield Place(folder / "out", "a clock that jumps", environment={"PYTHONPATH": path})


@contextlib.contextmanager
def long_path(folder: Path, rng: random.Random, size: Size) -> Iterator[Place]:
    """Give a path of 3,600 to 4,095 characters, or a longer one, or a name of 300."""
    length = rng.choice((rng.randint(3600, 4095), 4000, 4090, 9000))
    out = folder / ("n" * 300)
    if rng.random() < 0.8:
        out = folder
        while (left := length - len(str(out))) > 1:
            out = out / ("d" * min(200, left - 1))
    said = f"a path of {len(str(out)):,} characters"
    yield Place(out, said, again=folder / "short" / "out")


# name → (the limit, whether it needs root)
LIMITS: dict[str, tuple[Limit, bool]] = {
    "64 open files": (open_files, False),
    "address space": (address_space, False),
    "no /dev/shm": (no_shared_memory, True),
    "full disk": (full_disk, True),
    "no inodes": (no_inodes, True),
    "read-only disk": (read_only, True),
    "full TMPDIR or cache": (full_caches, True),
    "clock jumps": (clock_jumps, False),
    "4,000-character path": (long_path, False),
}
