"""The inputs of a build, divided into units that one worker reads at a time.

A unit is a tar, a parquet file, or a thousand files of a folder.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.io import storage
from data_pipeline.io.bounded_json import OWN, parse_json
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

FILES = 1000  # files of a folder per unit
TAR, PARQUET, FOLDER, TABLE = "tar", "parquet", "folder", "table"


@dataclasses.dataclass(frozen=True)
class Unit:
    """What one worker reads at a time.

    The order of its items depends on the files alone; an item's ordinal is its place in that order.
    """

    kind: str
    path: str  # of the tar, the parquet file, the folder, or the table
    name: str  # for reports
    size: int  # bytes, or files
    root: str = ""  # the folder to which a table's file names are relative
    first: int = 0  # the number of its first file of the folder, or row of the table
    parts: tuple[str, ...] = ()  # its file names, or its rows as JSON
    column: str = ""  # a parquet file's column of image bytes; empty where it cannot be opened
    stamp: str = ""  # changes when one of its files is written anew

    @property
    def source(self) -> str:
        """The name of what it is a part of, for the report, such as the tars of a folder."""
        if self.kind in (TAR, PARQUET):
            place = f"{self.kind} files of {self.path.rpartition('/')[0] or '.'}"
        else:
            place = f"{self.kind} {self.path}"
        return place.encode(errors="backslashreplace").decode()


def find_units(inputs: list[str], captions: Path | None) -> list[Unit]:
    """Return the units of the inputs: paths or patterns of tars, parquet files and folders.

    The order does not depend on how the inputs were given.

    Raises:
        InputError: an input does not exist, or cannot be read as captioned images.
    """
    units: list[Unit] = []
    for given in inputs:
        if not storage.is_remote(given) and Path(given).is_dir():
            units += _folder(Path(given), captions)
        else:
            found = storage.files(given)
            if not found:
                raise InputError(
                    f"--input {given}: there is no such file or folder; give tars, parquet files or"
                    " a folder, and patterns in quotes"
                )
            units += [_file(path, file) for path, file in found.items()]
    if captions is not None and not any(unit.kind == TABLE for unit in units):
        raise InputError(
            f"--captions {captions}: no --input is a folder of images; give one, or leave"
            " --captions out"
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
        except DamagedError:  # counted when it is read, like a damaged tar
            column = ""
        if column is None:
            raise InputError(
                f"--input {path} has no column of image bytes (jpg, png, webp, image); give a file"
                " of metadata as --metadata"
            )
        return Unit(PARQUET, path, name, file.size, column=column, stamp=file.stamp)
    raise InputError(
        f"--input {path} is neither a .tar nor a .parquet; give one of these, or a folder of images"
    )


def _folder(root: Path, captions: Path | None) -> list[Unit]:
    tars = _named(root, ".tar")
    table = captions or find_table(root)
    images, alone = list_files(root)
    if sum(map(bool, (tars, images))) > 1:
        raise InputError(
            f"--input {root} holds both tars and images; put them into separate folders, or give a"
            f" pattern such as '{root}/*.tar'"
        )
    if tars:  # parquet files beside tars are img2dataset's logs
        return [_file(path, storage.files(path)[path]) for path in tars]
    if table and (images or captions):
        if table.suffix.lower() not in (".csv", ".jsonl"):
            raise InputError(
                f"--captions {table}: give a .csv or .jsonl with file names and captions"
            )
        if not table.is_file():
            raise InputError(f"--captions {table}: there is no such file")
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
        f"--input {root} holds no .tar, no .parquet and no images; give a folder that holds one of"
        f" these (images: {', '.join(IMAGE_SUFFIXES)})"
    )


def _named(root: Path, suffix: str) -> list[str]:
    """Return the files of a folder with that suffix, in upper or lower case."""
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
    """Return a digest of the names, sizes and times of all files below a folder."""
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(root, onerror=_failed):
        folders.sort()
        for name in sorted(names):
            try:
                status = os.stat(os.path.join(folder, name))
            except OSError as e:
                raise_machine(e, os.path.join(folder, name))
                continue  # a dangling link is counted when it is read
            digest.update(
                f"{folder}/{name} {status.st_size} {status.st_mtime_ns}\n".encode(
                    errors="surrogateescape"
                )
            )
    return digest.hexdigest()[:16]


def read_unit(unit: Unit) -> Iterator[Item | Skip]:
    """Yield the items of a unit. A file that is gone or cannot be opened gives one Skip.

    Raises:
        OSError: the machine or the store fails.
    """
    try:
        if unit.kind == TAR:
            with storage.open_read(unit.path) as file:
                for item, _ in read_tar(file, unit.name, unit.path, unit.size):
                    yield item
        elif unit.kind == PARQUET and not unit.column:
            yield Skip(unit.name, BAD_PARQUET, _why_not(unit.path), unit.size)
        elif unit.kind == PARQUET:
            yield from read_parquet(unit.path, unit.name, unit.column)
        elif unit.kind == TABLE:
            rows = (parse_json(row, OWN, nan=True, surrogates=True) for row in unit.parts)
            yield from read_table(Path(unit.root), Path(unit.path).name, rows)
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


def _why_not(path: str) -> str:
    """Return why a parquet file cannot be opened."""
    try:
        image_column(path)
    except DamagedError as e:
        return str(e)
    return "could not be opened when the build began"


def read_place(place: Place) -> bytes:
    """Return an image's bytes without reading the rest of its unit."""
    return (
        read_image(place)
        if place.size < 0
        else storage.read_at(place.file, place.offset, place.size)
    )


def fingerprint(units: list[Unit]) -> str:
    """Return a text that changes when the names, sizes or times of the inputs do."""
    text = json.dumps([dataclasses.astuple(unit) for unit in units])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def groups(units: list[Unit], shard_bytes: int) -> list[range]:
    """Return the ranges of units that make one shard each.

    Consecutive units are combined until they have `shard_bytes`. A folder's units make a shard
    each.
    """
    out, start, total = [], 0, 0
    for number, unit in enumerate(units):
        total += unit.size if unit.kind in (TAR, PARQUET) else shard_bytes
        if total >= shard_bytes:
            out.append(range(start, number + 1))
            start, total = number + 1, 0
    return [*out, range(start, len(units))] if start < len(units) else out
