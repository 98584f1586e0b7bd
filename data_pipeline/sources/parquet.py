"""Parquet: img2dataset's files with image bytes in them, and tables of metadata (LAION's) that are
joined by key.
"""

from collections.abc import Iterator
from typing import Any

from data_pipeline.io import storage
from data_pipeline.io.errors import InputError, first_line
from data_pipeline.sources.items import (
    TOO_LARGE,
    Image,
    Item,
    Place,
    Skip,
    limit_of,
    make_item,
    scores_of,
    too_large,
)

IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "image")  # img2dataset names it after its encoding
CAPTION_COLUMNS, KEY_COLUMNS, URL_COLUMNS = (
    ("caption", "txt", "TEXT", "text"),
    ("key", "__key__"),
    ("url", "URL"),
)
BAD_PARQUET = "damaged parquet file"
_ROWS = 64  # read at a time


class DamagedError(Exception):
    """A parquet file breaks off or contradicts itself; what was read before it is good."""


def image_column(path: str) -> str | None:
    """The column with image bytes, or None where the file has none.

    Raises:
        DamagedError: it cannot be opened as parquet.
    """
    with storage.open_read(path) as file:
        schema = _open(file).schema_arrow
    import pyarrow

    # a struct is Hugging Face's {"bytes", "path"}
    kinds = (pyarrow.types.is_binary, pyarrow.types.is_large_binary, pyarrow.types.is_struct)
    return next(
        (
            name
            for name in IMAGE_COLUMNS
            if name in schema.names and any(kind(schema.field(name).type) for kind in kinds)
        ),
        None,
    )


def read_parquet(path: str, name: str, column: str) -> Iterator[Item | Skip]:
    """The rows of a file with image bytes in `column`.

    A row group that is damaged ends the file: its last Skip says so.
    """
    row = 0
    with storage.open_read(path) as file:
        try:
            parquet = _open(file)
            for fields in _rows(parquet, [column, *_plain_columns(parquet)]):
                yield _item(fields, column, Place(path, row, -1))
                row += 1
        except DamagedError as e:
            yield Skip(name, BAD_PARQUET, f"after row {row}: {first_line(e)}")


def read_image(place: Place) -> bytes:
    """The image bytes of one row: its row group's, so not for many.

    Raises:
        InputError: the file is another one by now.
    """
    try:
        column = image_column(place.file)
        with storage.open_read(place.file) as file:
            parquet, row = _open(file), place.offset
            for group in range(parquet.num_row_groups):
                count = parquet.metadata.row_group(group).num_rows
                if row < count:
                    return _bytes(
                        parquet.read_row_group(group, columns=[column]).column(0)[row].as_py()
                    )
                row -= count
    except DamagedError as e:
        raise InputError(
            f"{place.file} cannot be read any more ({first_line(e)}); start the build anew"
        ) from e
    raise InputError(f"{place.file} has no row {place.offset} any more; start the build anew")


def read_metadata(path: str, on: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(value of the column `on`, the row's scores, tags and URL). "url" is found under the names
    that sources give it.

    Raises:
        InputError: no such column, or the file is damaged.
    """
    with storage.open_read(path) as file:
        try:
            parquet = _open(file)
            columns = _plain_columns(parquet)
            key = next(
                (name for name in (URL_COLUMNS if on in URL_COLUMNS else (on,)) if name in columns),
                None,
            )
            if key is None:
                raise InputError(
                    f"--metadata {path} has no column {on!r} of text or numbers; it has"
                    f" {', '.join(columns[:20])} (--join-on)"
                )
            for fields in _rows(parquet, columns):
                if (value := join_value(fields[key])) is not None:
                    yield (
                        value,
                        {"scores": scores_of(fields), "url": _first(fields, URL_COLUMNS)[:2048]},
                    )
        except DamagedError as e:
            raise InputError(
                f"--metadata {path} is damaged ({first_line(e)}); restore it, or leave it out"
            ) from e


def join_value(value: Any) -> str | None:
    """What rows are joined on: 12, 12.0 and "12" are the same."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None or value == "" else str(value)


def _open(file) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as e:
        raise InputError("parquet files need pyarrow: pip install 'cv3jax[data]'") from e
    try:
        return parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise DamagedError(str(e)) from e


def _plain_columns(parquet: Any) -> list[str]:
    """Of text, numbers, and lists of text; not images, dates, EXIF and whatever else there may
    be.
    """
    import pyarrow.types as kinds

    def plain(kind: Any) -> bool:
        text = kinds.is_string(kind) or kinds.is_large_string(kind)
        listed = (kinds.is_list(kind) or kinds.is_large_list(kind)) and plain(kind.value_type)
        return text or listed or kinds.is_integer(kind) or kinds.is_floating(kind)

    return [
        field.name for field in parquet.schema_arrow if field.name != "exif" and plain(field.type)
    ]


def _rows(parquet: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows as dicts; a text that is not UTF-8 is None."""
    import pyarrow

    try:
        for batch in parquet.iter_batches(_ROWS, columns=columns):
            try:
                yield from batch.to_pylist()
            except UnicodeDecodeError:  # in one row or more of these
                for row in range(batch.num_rows):
                    yield {name: _cell(batch.column(name)[row]) for name in batch.schema.names}
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise DamagedError(str(e)) from e


def _cell(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return None


def _item(fields: dict[str, Any], column: str, place: Place) -> Item | Skip:
    stem = place.file.rpartition("/")[2].removesuffix(".parquet")
    key = (
        join_value(next((fields[name] for name in KEY_COLUMNS if name in fields), None))
        or f"{stem}-{place.offset:08d}"
    )
    data = _bytes(fields.pop(column))
    if len(data) > limit_of("image"):
        return Skip(key, TOO_LARGE, too_large(key, len(data), limit_of("image")))
    fields |= {"caption": _first(fields, CAPTION_COLUMNS), "url": _first(fields, URL_COLUMNS)}
    return make_item(key, Image(data, place) if data else None, {}, fields)


def _bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else b""


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> str:
    """The first text among these columns; of a list of texts, its first."""
    values = [fields[name] for name in names if fields.get(name)]
    values = [value[0] if isinstance(value, list) else value for value in values]
    return next((value for value in values if isinstance(value, str)), "")
