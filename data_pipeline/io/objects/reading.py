"""Cascades and checkpoints of a bucket, fetched to this machine's disk before they are read."""

import shutil
from pathlib import Path

from data_pipeline.io import locks
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects import snapshots
from data_pipeline.io.objects.mirror import place_of
from data_pipeline.io.objects.store import Store, address_of
from data_pipeline.io.progress import say

FINISHED = "cascade.json"


def local(path: str | Path) -> Path:
    """Return `path`, or for the address of a run the local directory with what was published there.

    Of a run that has a cascade, only the cascade is fetched. What is here already is not fetched
    again.

    Raises:
        InputError: nothing was published at that address, or it is damaged.
        OSError: the store fails.
    """
    address = address_of(path)
    if address is None:
        return Path(path)
    store, base = Store(address), place_of(address)
    tree = snapshots.read_tree(store)
    if tree is None:
        raise InputError(
            f"{address}: nothing was published there (it has no {snapshots.NAME}); give the"
            " --workdir of a run"
        )
    base.mkdir(parents=True, exist_ok=True)
    with locks.wait(base / "reading.lock"):
        wanted = _wanted(tree[0])
        place = base / f"read-{snapshots.digest_of(wanted)[:16]}"
        if place.exists():
            return place
        for old in base.glob("read-*.partial"):
            shutil.rmtree(old)  # of a killed process: this one has the lock
        partial = place.with_name(f"{place.name}.partial")
        say(f"cv3jax: fetching {address}")
        tree = snapshots.fetch(store, partial, _wanted)
        place = base / f"read-{snapshots.digest_of(_wanted(tree[0]))[:16]}"
        if place.exists():
            shutil.rmtree(partial)
        else:
            partial.replace(place)
        return place


def _wanted(files: snapshots.Files) -> snapshots.Files:
    """Return the cascade's files, or all of a run that has none."""
    if f"cascade/{FINISHED}" not in files:
        return files
    return {name: about for name, about in files.items() if name.startswith("cascade/")}
