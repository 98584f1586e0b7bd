"""The sizes of all images of a dataset without reading them: `sizes.npy` beside the shards.

It is int32 [N, 2]: height and width in pixels, upright, in the order of `RecordSource`, which is
shard after shard. It takes 8 bytes per record and is read in pieces, so a process never holds all
of it. A dataset of another program has no such file: its records are read once, and the file is
written.
"""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.io import progress
from data_pipeline.io.errors import InputError, first_line, machine_error
from data_pipeline.io.files import replacing
from data_pipeline.io.regular_files import check_regular

NAME = "sizes.npy"
_PIECE = 2**16  # records whose sizes are held at a time


class Sizes:
    """The height and width of every record: `len(sizes)`, and `sizes.rows(start, stop)`.

    It can be pickled, and is safe to use from many threads.
    """

    def __init__(self, where: np.ndarray | Path, count: int, offset: int = 0):
        """Take the sizes of `count` records: an array, or a file that has them at `offset`."""
        self._where, self._count, self._offset = where, count, offset

    def __len__(self) -> int:
        """Return the number of records."""
        return self._count

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return the sizes of records start..stop - 1, int32 [stop - start, 2].

        Raises:
            InputError: they are not positive, or the file became shorter.
            OSError: the machine fails.
        """
        if isinstance(self._where, np.ndarray):
            return self._where[start:stop]
        # read and not mapped: the pages of a map would count as memory of the process
        place = self._offset + 8 * start
        found = np.fromfile(self._where, np.int32, 2 * (stop - start), offset=place).reshape(-1, 2)
        if len(found) != stop - start or not (found > 0).all():
            raise _wrong(self._where, "int32", [self._count, 2], self._count)
        return found

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield the sizes of all records, some at a time."""
        for start in range(0, self._count, _PIECE):
            yield self.rows(start, min(start + _PIECE, self._count))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the sizes of all records, for datasets of which a process can hold them."""
        return self.rows(0, self._count).astype(dtype or np.int32)


def write_sizes(directory: Path, sizes: Sequence[tuple[int, int]] | np.ndarray | Sizes) -> None:
    """Write (height, width) of all records, in the order above, whole or not at all.

    Raises OSError where the disk is full or failing.
    """
    if not isinstance(sizes, Sizes):
        array = np.asarray(sizes, np.int32).reshape(-1, 2)
        sizes = Sizes(array, len(array))
    write_pieces(directory, sizes.pieces(), len(sizes))


def read_sizes(directory: Path, count: int) -> Sizes | None:
    """Return the sizes of a dataset; None where it has no such file.

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
    if sizes.shape != (count, 2) or sizes.dtype != np.int32 or not sizes.flags.c_contiguous:
        raise _wrong(path, sizes.dtype.name, list(sizes.shape), count)
    return Sizes(path, count, sizes.offset)


def sizes_of(source: Sequence) -> Sizes:
    """Return the height and width of every record.

    Raises:
        InputError: sizes.npy is damaged, or, where there is none, a record is.
    """
    place = beside(source, NAME)
    if place is not None and (known := read_sizes(place.parent, len(source))) is not None:
        return known
    measured = _measured(source, place)
    if place is not None and os.access(place.parent, os.W_OK):
        write_pieces(place.parent, measured, len(source))
        return read_sizes(place.parent, len(source))
    return Sizes(np.concatenate(list(measured)), len(source))


def beside(source: Sequence, name: str) -> Path | None:
    """Return where a dataset's file `name` would be, None for records that have no directory.

    A file of a dataset in a bucket is fetched first. Raises OSError where the store fails.
    """
    if hasattr(source, "beside"):
        return source.beside(name)
    return Path(source.name) / name if hasattr(source, "name") else None


def _measured(source: Sequence, place: Path | None) -> Iterator[np.ndarray]:
    """Yield the sizes of records that are read for it, int32 [n, 2] at a time."""
    piece = array("i")
    where = "records" if place is None else place.parent
    with progress.bar(len(source), f"sizes of {where}", "record") as bar:
        for record in (source[i] for i in range(len(source))):
            piece.extend((int(record["height"]), int(record["width"])))
            bar.update()
            if len(piece) == 2 * _PIECE:
                yield np.array(piece, np.int32).reshape(-1, 2)
                piece = array("i")
    yield np.array(piece, np.int32).reshape(-1, 2)


def write_pieces(directory: Path, pieces: Iterable[np.ndarray], count: int) -> None:
    """Write the sizes of `count` records, of which each piece, int [n, 2], has some.

    The file appears whole or not at all. Raises OSError where the disk is full or failing.
    """
    # under a name of this process: all processes of a run may find that the file is missing
    place = directory / f"{NAME}.{os.getpid()}.tmp"
    with replacing(directory / NAME, place) as temporary, temporary.open("wb") as file:
        about = {"descr": "<i4", "fortran_order": False, "shape": (count, 2)}
        np.lib.format.write_array_header_1_0(file, about)
        for piece in pieces:
            file.write(np.asarray(piece, "<i4").tobytes())


def _wrong(path: Path, dtype: str, shape: list[int], count: int) -> InputError:
    return InputError(
        f"{path} holds {dtype} {shape}, not positive sizes of {count} records; remove it, and it is"
        " written again"
    )
