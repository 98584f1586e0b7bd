"""Directories that appear complete: written beside their place under another name, then renamed."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.io import locks
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory, check_length


def check_new(out: Path, flag: str = "--out") -> None:
    """Raise InputError where `out` could not appear: something is there or in the way."""
    check_length(out, flag)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{flag} {out} exists already; give a new directory")
    check_renamable(out, flag)


def check_renamable(out: Path, flag: str = "--out") -> None:
    """Raise InputError where no directory could be renamed to `out`."""
    if os.path.ismount(out):
        raise InputError(f"{flag} {out}: a disk is mounted there; give a new directory below it")
    check_directory(out, flag, renamed=True)


@contextlib.contextmanager
def holding(
    out: Path, flag: str = "--out", own: Callable[[str], bool] | None = None
) -> Iterator[Path]:
    """Hold the empty directory `OUT.partial`, in which one process at a time writes `out`.

    The directory is removed after the block unless it was renamed.

    own: given a file's name, returns whether a killed writer may have left it; such files are
    removed first. By default, all files are removed where a lock file is beside them.

    Raises:
        InputError: another process holds it, or something else has that name.
        OSError: the disk is full or failing.
    """
    partial = out.with_name(f"{out.name}.partial")
    left = [path.name for path in partial.iterdir()] if partial.is_dir() else []
    if own is None:
        own = (lambda _: True) if locks.NAME in left else (lambda _: False)
    if foreign := sorted(name for name in left if name != locks.NAME and not own(name)):
        raise InputError(
            f"{flag} {out}: {partial} exists and holds {foreign[0]!r}, which this command did not"
            " write; move it, or give another directory"
        )
    with locks.hold(partial, flag):
        held = partial.stat()
        try:
            for path in partial.iterdir():
                if path.name != locks.NAME:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield partial
        finally:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(held, partial.stat()):
                    shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def appearing(out: Path, flag: str = "--out") -> Iterator[Path]:
    """Yield the directory to write into, which becomes `out` when the block ends.

    Where the block fails, it is removed. Raises InputError as `check_new` and `holding` do.
    """
    check_new(out, flag)
    place = out.resolve()  # a directory cannot be renamed to a link
    with holding(place, flag) as partial:
        check_new(out, flag)  # again: another process may have finished it meanwhile
        yield partial
        _rename(partial, place)


def replace_directory(whole: Path, out: Path) -> None:
    """Rename the directory `whole` to `out`, and remove the directory that was there.

    A directory cannot be replaced in one step: the old one is moved aside between the two renames.
    Where `out` is a link, the link stays, and the directory that it names is replaced.
    """
    if out.is_symlink():
        place = out.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        moved = place.with_name(f".{place.name}.replacing")
        shutil.rmtree(moved, ignore_errors=True)
        shutil.move(whole, moved)  # to another file system, perhaps
        whole, out = moved, place
    old = out.with_name(f".{out.name}.replaced")
    if old.exists():  # left by a process that was killed between the renames, or after them
        shutil.rmtree(old)
    if not out.exists():
        _rename(whole, out)
        return
    out.rename(old)
    _rename(whole, out)
    shutil.rmtree(old)


def _rename(whole: Path, out: Path) -> None:
    """Rename `whole` with its lock, so that no other process takes it for a free place."""
    whole.replace(out)
    (out / locks.NAME).unlink(missing_ok=True)
