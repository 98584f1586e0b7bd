"""Parquet: img2dataset's files with image bytes in them, and tables of metadata (LAION's) that are joined by key."""

from collections.abc import Iterator
from typing import Any

from data_pipeline import items, storage
from data_pipeline.errors import InputError, first_line
from data_pipeline.items import BAD_TEXT, TOO_LARGE, Image, Item, Place, Skip, limit_of, make_item, too_large

IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "image")  # img2dataset names it after its encoding
CAPTION_COLUMNS, KEY_COLUMNS, URL_COLUMNS = ("caption", "txt", "TEXT", "text"), ("key", "__key__"), ("url", "URL")
_ROWS = 64  # read at a time
_CELL = 2**16  # characters of a text that is metadata


class DamagedError(Exception):
    """A parquet file breaks off or contradicts itself; what was read before it is good."""


def image_column(path: str) -> str | None:
    """The column with image bytes, or None where the file has none.

    Raises:
        InputError: it cannot be read as parquet.
    """
    with storage.open_read(path) as file:
        schema = _open(file, path).schema_arrow
    import pyarrow

    # a struct is Hugging Face's {"bytes", "path"}
    kinds = (pyarrow.types.is_binary, pyarrow.types.is_large_binary, pyarrow.types.is_struct)
    return next((name for name in IMAGE_COLUMNS if name in schema.names and any(kind(schema.field(name).type) for kind in kinds)), None)


def read_parquet(path: str, name: str, column: str) -> Iterator[Item | Skip]:
    """The rows of a file with image bytes in `column`. A row group that is damaged ends the file: its last Skip says so."""
    row = 0
    with storage.open_read(path) as file:
        try:
            for fields in _rows(_open(file, path), None):
                yield _item(fields, column, Place(path, row, -1))
                row += 1
        except DamagedError as e:
            yield Skip(name, items.BAD_TAR.replace("tar", "parquet file"), f"after row {row}: {first_line(e)}")


def read_image(place: Place) -> bytes:
    """The image bytes of one row: its row group's, so not for many."""
    column = image_column(place.file)
    with storage.open_read(place.file) as file:
        parquet, row = _open(file, place.file), place.offset
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            if row < count:
                return _bytes(parquet.read_row_group(group, columns=[column]).column(0)[row].as_py())
            row -= count
    raise InputError(f"{place.file} has no row {place.offset} any more; start the build anew")


def read_metadata(path: str, on: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(value of the column `on`, the row's scores, tags and URL).

    Raises:
        InputError: no such column, or the file is damaged.
    """
    with storage.open_read(path) as file:
        parquet = _open(file, path)
        if on not in parquet.schema_arrow.names:
            raise InputError(f"--metadata {path} has no column {on!r}; it has {', '.join(parquet.schema_arrow.names[:20])} (--join-on)")
        try:
            for fields in _rows(parquet, [name for name in parquet.schema_arrow.names if name not in IMAGE_COLUMNS]):
                if fields[on] is not None:
                    yield str(fields[on]), {"scores": items.scores_of(fields), "url": _first(fields, URL_COLUMNS)[:2048]}
        except DamagedError as e:
            raise InputError(f"--metadata {path} is damaged ({first_line(e)}); restore it, or leave it out") from e


def _open(file, path: str):
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as e:
        raise InputError("parquet files need pyarrow: pip install 'cv3jax[data]'") from e
    try:
        return parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise InputError(f"{path} is not a readable parquet file ({first_line(e)})") from e


def _rows(parquet, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    import pyarrow

    try:
        for batch in parquet.iter_batches(_ROWS, columns=columns):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise DamagedError(str(e)) from e


def _item(fields: dict[str, Any], column: str, place: Place) -> Item | Skip:
    key = _first(fields, KEY_COLUMNS) or f"{place.file.rpartition('/')[2].removesuffix('.parquet')}-{place.offset:08d}"
    data = _bytes(fields.pop(column))
    if len(data) > limit_of("image"):
        return Skip(key, TOO_LARGE, too_large(key, len(data), limit_of("image")))
    if any(isinstance(value, str) and len(value) > _CELL for value in fields.values()):
        return Skip(key, BAD_TEXT, f"a text of more than {_CELL:,} characters")
    fields |= {"caption": _first(fields, CAPTION_COLUMNS), "url": _first(fields, URL_COLUMNS)}
    return make_item(key, Image(data, place) if data else None, {}, fields)


def _bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else b""


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((str(fields[name]) for name in names if fields.get(name) is not None), "")
