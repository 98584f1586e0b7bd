"""What commands write to an address: outputs, whole or as far as they got, and whole datasets."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from data_pipeline.io import extras
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory, read_json, replacing
from data_pipeline.io.objects import lease, snapshots
from data_pipeline.io.objects.mirror import check_own, lease_seconds, mirrored
from data_pipeline.io.objects.places import mark
from data_pipeline.io.objects.store import LostError, Store, address_of
from data_pipeline.io.progress import say


def check_out(out: Path, flag: str = "--out") -> None:
    """Raise, before the work, where `out` could not be written; an address is not contacted yet.

    Raises InputError and OSError as `files.check_directory` does, and InputError where the library
    for an address is not installed.
    """
    address = address_of(out)
    if address is None:
        check_directory(out, flag)
    else:
        extras.check(f"{flag} {address}", "s3fs" if address.startswith("s3://") else "gcsfs")


def output(out: Path, flag: str = "--out") -> contextlib.AbstractContextManager[Path]:
    """Return the context of the directory to write into: `out`, or of an address a local one.

    What an address has already is fetched first, so that a stopped command resumes. What the block
    wrote is published, however it ends, under its own names. Raises as `mirrored` does.
    """
    return mirrored(out, flag, plain=True)


def dataset(
    out: Path,
    make: Callable[[Path], dict],
    asked: object,
    *,
    overwrite: bool | None,
    flag: str = "--out",
) -> dict:
    """Return the figures of `make(place)`, which writes a dataset at `out`, or for an address here.

    The dataset of an address is published when it is made. Then its files have their own names
    there, and no local copy is left. Where publishing fails, the copy stays, and the same command
    publishes it without making it again. asked: what the command was asked for, by which that is
    known. figures: an object of JSON. overwrite: whether what is there may be replaced; None: the
    command has no such flag.

    Raises:
        InputError: another command writes there or has written meanwhile, or something is there
            that `overwrite` does not allow to replace.
        OSError: the store fails.
    """
    address = address_of(out)
    if address is None:
        return make(out)
    store = Store(address)
    held = lease.Lease(store, flag, lease_seconds())
    try:
        tree = snapshots.read_tree(store)
        if tree and tree[0] and not overwrite:
            other = "" if overwrite is None else "--overwrite to replace it, or "
            what = "something" if overwrite is None else "a dataset"
            raise InputError(f"{flag} {address} already holds {what}; give {other}another address")
        check_own(store, flag)
        place = mark(address) / "dataset"
        figures = _made(place, make, [asked, os.getcwd()])
        try:
            snapshots.publish(store, place, snapshots.whole(place), tree, held.check, plain=True)
        except LostError as e:
            raise InputError(
                f"{flag} {address}: another command has written there meanwhile, and this one"
                f" replaces nothing; its dataset is in {place}, give another address"
            ) from e
        _note(place).unlink()
        shutil.rmtree(place)
        return figures
    finally:
        held.release()


def _note(place: Path) -> Path:
    """Return the file that says which command has made all of the dataset at `place`."""
    return place.with_name("dataset.json")


def _made(place: Path, make: Callable[[Path], dict], asked: object) -> dict:
    """Return the figures of the whole dataset at `place`, which is made unless it is there."""
    call = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
    note = _note(place)
    if note.exists() and place.is_dir() and (value := read_json(note)).get("call") == call:
        say(
            f"cv3jax: the same command has made this dataset before, in {place}, and did not"
            " publish all of it; it is published now. Remove that folder to have it made again."
        )
        return value["figures"]
    note.unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    figures = make(place)
    with replacing(note) as temporary:
        temporary.write_text(json.dumps({"call": call, "figures": figures}))
    return figures
