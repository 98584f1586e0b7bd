"""Cascades and checkpoints of a bucket, fetched to this machine's disk before they are read."""

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from data_pipeline.io import locks
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects import fetching, snapshots
from data_pipeline.io.objects.places import TREE, mark, remember
from data_pipeline.io.objects.store import Store, address_of
from data_pipeline.io.progress import say

FINISHED = "cascade.json"
USED = ".used"  # ends the name of the file beside a copy that its readers lock
_held: dict[Path, int] = {}  # copies that this process reads → open files


def local(path: str | Path) -> Path:
    """Return `path`, or for the address of a run the local directory with what was published there.

    Of a run that has a cascade, only the cascade is fetched. What is here already is not fetched
    again. Older copies that no process reads any more are removed.

    Raises:
        InputError: nothing was published at that address, or it is damaged.
        OSError: the store fails.
    """
    address = address_of(path)
    if address is None:
        return Path(path)
    store = Store(address)
    tree = snapshots.read_tree(store)
    if not (tree and tree[0]):
        lacking = f"its {snapshots.NAME} has no files" if tree else f"it has no {snapshots.NAME}"
        raise InputError(
            f"{address}: nothing was published there ({lacking}); give the --workdir of a run"
        )
    base = mark(address)
    with locks.wait(base / "reading.lock"):
        place = base / f"read-{snapshots.digest_of(_wanted(tree[0]))[:16]}"
        if not place.exists():
            place = _fetch(store, base)
        hold(place)
        prune(base, place)
        return place


def found(text: str) -> Path:
    """Return the path that `places.shown` wrote: a copy of it here, where it is of an address.

    Raises InputError and OSError as `local` does.
    """
    address, mark, inside = text.partition("#")
    return local(address) / inside if mark and address_of(address) == address else Path(text)


def _fetch(store: Store, base: Path) -> Path:
    """Return the copy of what is published now. The caller has the lock of `base`."""
    for old in base.glob("read-*.partial"):
        shutil.rmtree(old)  # of a killed process
    partial = base / "read-new.partial"
    say(f"cv3jax: fetching {store.address}")
    tree = fetching.fetch(store, partial, _wanted)
    place = base / f"read-{snapshots.digest_of(_wanted(tree[0]))[:16]}"
    if place.exists():
        shutil.rmtree(partial)
    else:
        remember(place, store.address, _wanted(tree[0]))
        partial.replace(place)
    return place


def hold(place: Path) -> None:
    """Lock a copy against removal until this process ends."""
    if place not in _held:
        _held[place] = os.open(f"{place}{USED}", os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(_held[place], fcntl.LOCK_SH)


def prune(base: Path, kept: Path, pattern: str = "read-*") -> None:
    """Remove copies of such names other than `kept` that no process reads."""
    for place in base.glob(pattern):
        if not place.is_dir() or place == kept or place in _held:
            continue
        file = os.open(f"{place}{USED}", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # somebody reads it, or nobody can know
            continue
        finally:
            os.close(file)
        shutil.rmtree(place)
        for end in (USED, TREE):
            Path(f"{place}{end}").unlink(missing_ok=True)


def _wanted(files: snapshots.Files) -> snapshots.Files:
    """Return the cascade's files, or all of a run that has none."""
    if f"cascade/{FINISHED}" not in files:
        return files
    return {name: about for name, about in files.items() if name.startswith("cascade/")}
