"""A directory that appears when it is whole: written beside its place under another name, then
renamed.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.io import locks
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory


def check_new(out: Path, flag: str = "--out") -> None:
    """Raise InputError where `out` could not appear: something is there, or in the way."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{flag} {out} exists already; give a new directory")
    check_directory(out, flag)


@contextlib.contextmanager
def appearing(out: Path, flag: str = "--out") -> Iterator[Path]:
    """The directory to write into; it becomes `out` when the block ends, and is removed when the
    block fails.

    What a killed process left under that name, a lock beside it, is removed first.

    Raises:
        InputError: as `check_new`, or something else has that name, or another process is writing
            the same.
    """
    check_new(out, flag)
    place = out.resolve()  # a directory cannot be renamed to a link
    partial = place.with_name(f"{place.name}.partial")
    if partial.exists() and not (partial / locks.NAME).is_file():
        raise InputError(
            f"{flag} {out}: {partial} is in the way, and was not left by a conversion; move it or"
            " give another directory"
        )
    with locks.hold(partial, flag):
        try:
            for left in partial.iterdir():
                if left.name != locks.NAME:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield partial
            (partial / locks.NAME).unlink()
            partial.replace(place)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def replace_directory(whole: Path, out: Path) -> None:
    """Renames the directory `whole` to `out`, where another one may be, which goes.

    A directory cannot be replaced in one step: the old one moves aside for the instant between the
    two renames.
    """
    old = out.with_name(f".{out.name}.replaced")
    if old.exists():  # left by a process that was killed in that instant, or after it
        shutil.rmtree(old)
    if not out.exists():
        whole.rename(out)
        return
    out.rename(old)
    whole.rename(out)
    shutil.rmtree(old)
