"""How often each record of a dataset occurs in an epoch: `repeats.npy` beside the shards.

It is int32 [N], at least 1 each, in the order of `RecordSource`. A dataset without the file has
each record once. The records themselves are stored once, and so are their cached features.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.io.errors import InputError, first_line, machine_error
from data_pipeline.io.files import replacing
from data_pipeline.io.regular_files import check_regular
from data_pipeline.records.sizes import beside

NAME = "repeats.npy"
MOST = 10**6  # of one record
MOST_PLACES = 10**8  # of an epoch: 800 MB of indices


def write_repeats(directory: Path, repeats: Sequence[int] | np.ndarray) -> None:
    """Write how often each record occurs, whole or not at all.

    Raises OSError where the disk is full or failing.
    """
    with replacing(directory / NAME) as temporary, temporary.open("wb") as file:
        np.save(file, np.asarray(repeats, np.int32))


def read_repeats(directory: Path, count: int) -> np.ndarray | None:
    """Return the repeats of a dataset, int32 [count]; None where it has no such file.

    Raises:
        InputError: the file is damaged, or belongs to other records.
    """
    path = directory / NAME
    if not path.exists():
        return None
    advice = "remove it for one of each, or write the dataset again"
    try:
        check_regular(path)
        repeats = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise (
            machine_error(e, path)
            or InputError(f"{path} is damaged ({first_line(e, 160).partition('. ')[0]}); {advice}")
        ) from e
    fine = repeats.shape == (count,) and repeats.dtype == np.int32
    if not fine or repeats.min() < 1 or repeats.max() > MOST:
        found = f"{repeats.dtype.name} {list(repeats.shape)}"
        raise InputError(
            f"{path} holds {found}, not the repeats of {count} records, 1..{MOST:,} each; {advice}"
        )
    if (total := int(repeats.sum(dtype=np.int64))) > MOST_PLACES:
        raise InputError(
            f"{path}: an epoch would have {total:,} records, at most {MOST_PLACES:,}; {advice}"
        )
    return repeats


def repeats_of(source: Sequence) -> np.ndarray | None:
    """Return how often each record of a dataset occurs, int32 [N]; None where each occurs once.

    Raises InputError as `read_repeats` does.
    """
    place = beside(source, NAME)
    return None if place is None else read_repeats(place.parent, len(source))


def repeated(source: Sequence, indices: Sequence[int]) -> Sequence[int]:
    """Return `indices` of a dataset's records, each as often as it occurs in an epoch.

    All come once, then those that occur twice, and so on: after a place, the next one is of another
    record. Raises InputError as `read_repeats` does.
    """
    repeats = repeats_of(source)
    if repeats is None:
        return indices
    chosen = np.asarray(indices)
    times = repeats[chosen]
    copies = np.concatenate([np.arange(n) for n in times])
    return np.repeat(chosen, times)[np.argsort(copies, kind="stable")]
