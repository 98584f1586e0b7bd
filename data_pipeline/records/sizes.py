"""Height and width of every record of a dataset, without its images: the file `sizes.npy` beside
the shards.

int32 [N, 2], height and width in pixels, upright, in the order in which `RecordSource` numbers
records: shard after shard, as each was written. 8 bytes a record, read through a memory map. A
dataset without the file (of another program) is read once, and gets it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.io import progress
from data_pipeline.io.errors import InputError, first_line, machine_error
from data_pipeline.io.files import replacing

NAME = "sizes.npy"


def write_sizes(directory: Path, sizes: Sequence[tuple[int, int]] | np.ndarray) -> None:
    """Write (height, width) of all records, in the order above, whole or not at all.

    Raises OSError.
    """
    array = np.asarray(sizes, np.int32).reshape(-1, 2)
    # under a name of its own: the processes of a run may all find that there is no such file
    place = directory / f"{NAME}.{os.getpid()}.tmp"
    with replacing(directory / NAME, place) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def read_sizes(directory: Path, count: int) -> np.ndarray | None:
    """int32 [count, 2] of the dataset in `directory`; None where it has no such file.

    Raises:
        InputError: the file is damaged, or of other records.
    """
    path = directory / NAME
    if not path.exists():
        return None
    try:
        sizes = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise (
            machine_error(e, path)
            or InputError(
                f"{path} is damaged ({first_line(e, 160)}); remove it, and it is made anew"
            )
        ) from e
    if sizes.shape != (count, 2) or sizes.dtype != np.int32 or not (sizes > 0).all():
        found = f"{sizes.dtype.name} {list(sizes.shape)}"
        raise InputError(
            f"{path} holds {found}, not positive sizes of {count} records; remove it, and it is"
            " made anew"
        )
    return sizes


def sizes_of(source: Sequence) -> np.ndarray:
    """Height and width of every record, [N, 2].

    Raises:
        InputError: the dataset's file of them is damaged, or, where there is none, a record is.
    """
    directory = Path(source.name) if hasattr(source, "name") else None
    if directory is not None and (known := read_sizes(directory, len(source))) is not None:
        return known
    sizes = []
    with progress.bar(len(source), f"sizes of {directory or 'records'}", "record") as bar:
        for record in (source[i] for i in range(len(source))):
            sizes.append((int(record["height"]), int(record["width"])))
            bar.update()
    if directory is not None and os.access(directory, os.W_OK):
        write_sizes(directory, sizes)
    return np.array(sizes, np.int32)
