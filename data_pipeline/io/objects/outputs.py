"""What commands write to an address: outputs, whole or as far as they got, and whole datasets."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.io import extras
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory
from data_pipeline.io.objects import lease, snapshots
from data_pipeline.io.objects.mirror import check_own, lease_seconds, mirrored
from data_pipeline.io.objects.places import mark
from data_pipeline.io.objects.store import Store, address_of


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


@contextlib.contextmanager
def dataset(out: Path, *, overwrite: bool, flag: str = "--out") -> Iterator[Path]:
    """Yield the place at which a dataset is to appear: `out`, or of an address a local one.

    The dataset of an address is published when the block ends, and not where it fails. Then its
    files have their own names there, and no local copy is left.

    Raises:
        InputError: another command writes there, or something is there that `overwrite` does not
            allow to replace.
        OSError: the store fails.
    """
    address = address_of(out)
    if address is None:
        yield out
        return
    store = Store(address)
    held = lease.Lease(store, flag, lease_seconds())
    try:
        tree = snapshots.read_tree(store)
        if tree and tree[0] and not overwrite:
            raise InputError(
                f"{flag} {address} already holds a dataset; give --overwrite to replace it, or"
                " another address"
            )
        check_own(store, flag)
        place = mark(address) / "dataset"
        shutil.rmtree(place, ignore_errors=True)
        yield place
        snapshots.publish(store, place, snapshots.whole(place), tree, held.check, plain=True)
        shutil.rmtree(place)
    finally:
        held.release()
