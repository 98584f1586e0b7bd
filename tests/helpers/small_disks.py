"""Provide a disk that is soon full."""

import contextlib
import resource
import shutil
import subprocess


@contextlib.contextmanager
def small_disk(disk, room: int | None, largest: int):
    """Yield a small `disk` and a function that makes it large.

    It has `room` bytes. If a disk may not be mounted, its files have at most `largest` bytes.
    """
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)]
    if (
        room
        and shutil.which("mount")
        and subprocess.run(mount, capture_output=True).returncode == 0
    ):
        try:
            yield (
                disk,
                lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True),
            )
        finally:
            subprocess.run(["umount", str(disk)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield disk, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
