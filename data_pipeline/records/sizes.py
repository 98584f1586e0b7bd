"""The sizes of all images of a dataset without reading them: `sizes.npy` beside the shards.

It is int32 [N, 2]: height and width in pixels, upright, in the order of `RecordSource`, which is
shard after shard. It takes 8 bytes per record and is read through a memory map. A dataset of
another program has no such file: its records are read once, and the file is written.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.io import progress
from data_pipeline.io.errors import InputError, first_line, machine_error
from data_pipeline.io.files import replacing
from data_pipeline.io.regular_files import check_regular

NAME = "sizes.npy"


def write_sizes(directory: Path, sizes: Sequence[tuple[int, int]] | np.ndarray) -> None:
    """Write (height, width) of all records, in the order above, whole or not at all.

    Raises OSError where the disk is full or failing.
    """
    array = np.asarray(sizes, np.int32).reshape(-1, 2)
    # under a name of this process: all processes of a run may find that the file is missing
    place = directory / f"{NAME}.{os.getpid()}.tmp"
    with replacing(directory / NAME, place) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def read_sizes(directory: Path, count: int) -> np.ndarray | None:
    """Return the sizes of a dataset, int32 [count, 2]; None where it has no such file.

    Raises:
        InputError: the file is damaged, or belongs to other records.
    """
    path = directory / NAME
    if not path.exists():
        return None
    try:
        check_regular(path)
        sizes = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise (
            machine_error(e, path)
            or InputError(
                f"{path} is damaged ({first_line(e, 160).partition('. ')[0]}); remove it, and it is"
                " written again"
            )
        ) from e
    if sizes.shape != (count, 2) or sizes.dtype != np.int32 or not (sizes > 0).all():
        found = f"{sizes.dtype.name} {list(sizes.shape)}"
        raise InputError(
            f"{path} holds {found}, not positive sizes of {count} records; remove it, and it is"
            " written again"
        )
    return sizes


def sizes_of(source: Sequence) -> np.ndarray:
    """Return the height and width of every record, [N, 2].

    Raises:
        InputError: sizes.npy is damaged, or, where there is none, a record is.
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
