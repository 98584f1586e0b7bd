"""Fetch what `snapshots` published: whole, compared with its hashes, and only where it has room."""

import concurrent.futures
import shutil
from collections.abc import Callable
from pathlib import Path

from data_pipeline.io.errors import InputError
from data_pipeline.io.objects import places, snapshots
from data_pipeline.io.objects.store import Store

SPARE = 2**28  # bytes that a disk keeps free


def fetch(
    store: Store,
    folder: Path,
    wanted: Callable[[snapshots.Files], snapshots.Files] = lambda files: files,
) -> tuple[snapshots.Files, str] | None:
    """Write what was published last into an empty directory. Returns (files, stamp), or None.

    Raises:
        InputError: an object is not what was published, or all would not fit on the disk.
        OSError: the store fails.
    """
    for left in reversed(range(snapshots.TRIES)):
        tree = snapshots.read_tree(store)
        if tree is None:
            return None
        try:
            fetch_files(store, folder, wanted(tree[0]))
            return tree
        except FileNotFoundError as e:
            # a run may have published again, and removed what it replaced
            again = snapshots.read_tree(store)
            if not left or again is None or again[1] == tree[1]:
                raise InputError(
                    f"{store.address}: an object that {snapshots.NAME} names is missing ({e});"
                    " restore it"
                ) from e
    raise AssertionError("there is at least one try")


def fetch_files(store: Store, folder: Path, files: snapshots.Files) -> None:
    """Write files into a directory; those that are there already are read and stay.

    Raises as `fetch` does, and FileNotFoundError where an object is missing.
    """
    lacking = {name: about for name, about in files.items() if not (folder / name).is_file()}
    check_room(store, folder, sum(size for size, _, _ in lacking.values()))
    with concurrent.futures.ThreadPoolExecutor(snapshots.AT_ONCE) as pool:
        list(pool.map(lambda item: _get(store, folder, *item), files.items()))


def check_room(store: Store, folder: Path, size: int) -> None:
    """Raise InputError where a disk has not the room for so many bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < size + SPARE:
        raise InputError(
            f"{store.address} has {size / 1e9:,.1f} GB, and {places.base()} has"
            f" {free / 1e9:,.1f} GB free; set {places.PLACE} to a directory on a larger disk"
        )


def _get(store: Store, folder: Path, name: str, about: list) -> None:
    size, digest, place = about
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(snapshots.TRIES):
        if path.exists() and path.stat().st_size == size and snapshots.hash_of(path) == digest:
            return
        path.unlink(missing_ok=True)  # it may be a link to what another name has
        store.download(place, path)
    if path.stat().st_size == size and snapshots.hash_of(path) == digest:
        return
    raise InputError(
        f"{store.address}/{place} is not as it was published ({path.stat().st_size:,} of {size:,}"
        f" bytes came, {snapshots.TRIES} times); restore it"
    )
