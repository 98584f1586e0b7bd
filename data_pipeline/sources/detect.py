"""Recognising what `cv3jax data pack` is given: a folder, a folder with a table, or tars."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.io.errors import InputError
from data_pipeline.sources.folders import UnusableError, list_files, locate, read_files
from data_pipeline.sources.items import IMAGE_SUFFIXES, Item, Skip
from data_pipeline.sources.tables import check_table, find_table, read_table, table_rows
from data_pipeline.sources.tars import read_tar


@dataclasses.dataclass(frozen=True)
class Source:
    """A source that was recognised.

    `items` yields (Item or Skip, progress made), in an order that depends on the files alone.
    """

    kind: str  # "tars", "metadata.jsonl", "metadata.csv" or "folder"
    unit: str  # the unit of progress: "B" or "image"
    total: int
    items: Iterator[tuple[Item | Skip, int]]


def check_source(path: Path) -> None:
    """Raise InputError where there is neither a folder nor a .tar file at `path`."""
    if not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".tar"):
        raise InputError(
            f"there is no source at {path}; give a folder of images with captions, a folder of"
            " img2dataset tars, or a .tar file"
        )


def open_source(path: str | Path) -> Source:
    """Return the source at `path`, after recognising its kind.

    It is a .tar or a folder of them, a folder with a metadata.jsonl or metadata.csv, or a folder of
    images with .txt files beside them.

    Raises:
        InputError: nothing is there, it is not recognised, or its table cannot be read.
    """
    path = Path(path)
    check_source(path)
    if path.is_file():
        return _tars([path])
    if table := find_table(path):
        check_table(path, table)
        total = sum(1 for _ in table_rows(table))  # raises now on a table that cannot be read
        rows = read_table(path, table.name, table_rows(table))
        return Source(table.name.lower(), "image", total, _counted(rows))
    tars = sorted(tar for tar in path.iterdir() if tar.suffix.lower() == ".tar")
    images, captions = list_files(path)
    if tars and images:
        raise InputError(
            f"{path} holds both tars and images ({tars[0].name}, {images[0].name}); put them into"
            " separate folders"
        )
    if tars:
        return _tars(tars, path.resolve())
    if not images:
        raise InputError(
            f"{path} holds no images, no .tar and no metadata.jsonl or metadata.csv; give a folder"
            f" that holds one of these (images: {', '.join(IMAGE_SUFFIXES)})"
        )
    return Source(
        "folder", "image", len(images) + len(captions), _counted(read_files(path, images, captions))
    )


def _counted(items: Iterator[Item | Skip]) -> Iterator[tuple[Item | Skip, int]]:
    """Yield each item with a progress of one."""
    for item in items:
        yield item, 1


def _tars(tars: list[Path], inside: Path | None = None) -> Source:
    """Return the source of these tars, of which none may be outside the folder `inside`."""
    sizes = {}
    for tar in tars:
        try:
            sizes[tar] = locate(tar, inside)[1]
        except UnusableError as e:
            sizes[tar] = e

    def items():
        for tar, size in sizes.items():
            if isinstance(size, UnusableError):
                yield Skip(tar.name, size.reason, size.detail), 0
                continue
            with tar.open("rb") as file:
                yield from read_tar(file, tar.name, str(tar), size)

    return Source(
        "tars", "B", sum(size for size in sizes.values() if isinstance(size, int)), items()
    )
