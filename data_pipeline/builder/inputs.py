"""What there is to read, cut into units that one worker goes through in one go: a tar, a parquet
file, a thousand files of a folder.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.io import storage
from data_pipeline.io.errors import InputError, raise_machine
from data_pipeline.io.storage import File
from data_pipeline.sources.folders import list_files, read_files
from data_pipeline.sources.items import BAD_TAR, IMAGE_SUFFIXES, UNREADABLE, Item, Place, Skip
from data_pipeline.sources.parquet import (
    BAD_PARQUET,
    DamagedError,
    image_column,
    read_image,
    read_parquet,
)
from data_pipeline.sources.tables import check_table, find_table, read_table, table_rows
from data_pipeline.sources.tars import read_tar

FILES = 1000  # of a folder, in a unit
TAR, PARQUET, FOLDER, TABLE = "tar", "parquet", "folder", "table"


@dataclasses.dataclass(frozen=True)
class Unit:
    """One worker's reading.

    Items come in an order that the files alone decide; an item's ordinal is its place in it.
    """

    kind: str
    path: str  # of the tar, the parquet file, the folder, or the table
    name: str  # for reports
    size: int  # bytes, or files
    root: str = ""  # what a table's names are relative to
    first: int = 0  # of the folder's files, or the table's rows
    parts: tuple[str, ...] = ()  # these: names, or rows as JSON
    column: str = ""  # of a parquet file, with the image bytes; none where it cannot be opened
    stamp: str = ""  # another one when a file of it was written anew

    @property
    def source(self) -> str:
        """What it is a part of, for the report: a folder's tars, a folder's parquet files, …"""
        if self.kind in (TAR, PARQUET):
            place = f"{self.kind} files of {self.path.rpartition('/')[0] or '.'}"
        else:
            place = f"{self.kind} {self.path}"
        return place.encode(errors="backslashreplace").decode()


def find_units(inputs: list[str], captions: Path | None) -> list[Unit]:
    """The units of tars, parquet files and folders that are named by path or pattern, in one order
    however they were named.

    Raises:
        InputError: nothing there, or nothing that can be read as captioned images.
    """
    units: list[Unit] = []
    for given in inputs:
        if not storage.is_remote(given) and Path(given).is_dir():
            units += _folder(Path(given), captions)
        else:
            found = storage.files(given)
            if not found:
                raise InputError(
                    f"--input {given}: nothing there; give tars, parquet files or a folder,"
                    " patterns in quotes"
                )
            units += [_file(path, file) for path, file in found.items()]
    if captions is not None and not any(unit.kind == TABLE for unit in units):
        raise InputError(
            f"--captions {captions}: only for a folder of images, and --input has none"
        )
    unique = {(unit.path, unit.root, unit.first): unit for unit in units}
    return [unique[which] for which in sorted(unique)]


def _file(path: str, file: File) -> Unit:
    name = path.encode(errors="backslashreplace").decode()
    if path.lower().endswith(".tar"):
        return Unit(TAR, path, name, file.size, stamp=file.stamp)
    if path.lower().endswith(".parquet"):
        try:
            column = image_column(path)
        except DamagedError:  # counted when it is read, as a damaged tar is
            column = ""
        if column is None:
            raise InputError(
                f"--input {path} has no column of image bytes (jpg, png, webp, image); metadata"
                " goes to --metadata"
            )
        return Unit(PARQUET, path, name, file.size, column=column, stamp=file.stamp)
    raise InputError(
        f"--input {path}: neither .tar nor .parquet; a folder of images is given as the folder"
        " itself"
    )


def _folder(root: Path, captions: Path | None) -> list[Unit]:
    tars = _named(root, ".tar")
    table = captions or find_table(root)
    images, alone = list_files(root)
    if sum(map(bool, (tars, images))) > 1:
        raise InputError(
            f"--input {root} holds both tars and images; give a folder for each, or a pattern such"
            f" as '{root}/*.tar'"
        )
    if tars:  # parquet files beside them are img2dataset's logs
        return [_file(path, storage.files(path)[path]) for path in tars]
    if table and (images or captions):
        if table.suffix.lower() not in (".csv", ".jsonl"):
            raise InputError(
                f"--captions {table}: give a .csv or .jsonl with a file name and a caption"
            )
        if not table.is_file():
            raise InputError(f"--captions {table}: no such file")
        if not captions:
            check_table(root, table)
        rows = [json.dumps(row) for row in table_rows(table)]
        return _parts(TABLE, str(table), f"{root.name}/{table.name}", rows, root)
    if images:
        names = [path.relative_to(root).as_posix() for path in sorted([*images, *alone])]
        return _parts(FOLDER, str(root), root.name, names, root)
    parquets = _named(root, ".parquet")
    if parquets:
        return [_file(path, storage.files(path)[path]) for path in parquets]
    raise InputError(
        f"--input {root} holds no .tar, no .parquet and no images ({', '.join(IMAGE_SUFFIXES)})"
    )


def _named(root: Path, suffix: str) -> list[str]:
    """The files of a folder with that suffix, in whatever case."""
    return sorted(
        str(path)
        for path in root.iterdir()
        if path.name.lower().endswith(suffix) and path.is_file()
    )


def _parts(kind: str, path: str, name: str, parts: list[str], root: Path) -> list[Unit]:
    stamp, name = _stamp(root), name.encode(errors="backslashreplace").decode()
    pieces = [(i, tuple(parts[i : i + FILES])) for i in range(0, len(parts), FILES)]
    return [
        Unit(kind, path, f"{name}:{i}", len(piece), str(root), i, piece, stamp=stamp)
        for i, piece in pieces
    ]


def _failed(e: OSError) -> None:
    raise_machine(e, e.filename)


def _stamp(root: Path) -> str:
    """A digest of names, sizes and times of all files below a folder."""
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(root, onerror=_failed):
        folders.sort()
        for name in sorted(names):
            try:
                status = os.stat(os.path.join(folder, name))
            except OSError as e:
                raise_machine(e, os.path.join(folder, name))
                continue  # a dangling link, which is counted when it is read
            digest.update(
                f"{folder}/{name} {status.st_size} {status.st_mtime_ns}\n".encode(
                    errors="surrogateescape"
                )
            )
    return digest.hexdigest()[:16]


def read_unit(unit: Unit) -> Iterator[Item | Skip]:
    """The items of a unit. A file that is gone or cannot be opened is one Skip.

    Raises:
        OSError: the machine or the store fails.
    """
    try:
        if unit.kind == TAR:
            with storage.open_read(unit.path) as file:
                for item, _ in read_tar(file, unit.name, unit.path, unit.size):
                    yield item
        elif unit.kind == PARQUET and not unit.column:
            yield Skip(unit.name, BAD_PARQUET, "cannot be opened as parquet", unit.size)
        elif unit.kind == PARQUET:
            yield from read_parquet(unit.path, unit.name, unit.column)
        elif unit.kind == TABLE:
            yield from read_table(
                Path(unit.root), Path(unit.path).name, map(json.loads, unit.parts)
            )
        else:
            root = Path(unit.path)
            chosen = [root / name for name in unit.parts]
            alone = {path for path in chosen if path.suffix.lower() == ".txt"}
            yield from read_files(root, [path for path in chosen if path not in alone], alone)
    except OSError as e:
        if storage.is_remote(unit.path):
            raise  # the runner tries again
        raise_machine(e, e.filename or unit.path)
        yield Skip(
            unit.name, BAD_TAR if unit.kind == TAR else UNREADABLE, e.strerror or str(e), unit.size
        )


def read_place(place: Place) -> bytes:
    """An image's bytes, without the rest of its unit."""
    return (
        read_image(place)
        if place.size < 0
        else storage.read_at(place.file, place.offset, place.size)
    )


def fingerprint(units: list[Unit]) -> str:
    """Changes when the inputs do, as far as names, sizes and times tell."""
    text = json.dumps([dataclasses.astuple(unit) for unit in units])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def groups(units: list[Unit], shard_bytes: int) -> list[range]:
    """Which units, by number, make one shard: those that follow one another until they have
    `shard_bytes`. A folder's units stay alone.
    """
    out, start, total = [], 0, 0
    for number, unit in enumerate(units):
        total += unit.size if unit.kind in (TAR, PARQUET) else shard_bytes
        if total >= shard_bytes:
            out.append(range(start, number + 1))
            start, total = number + 1, 0
    return [*out, range(start, len(units))] if start < len(units) else out
