"""Reading parquet: img2dataset's files with image bytes, and tables of metadata to join by key."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from data_pipeline.io import extras, storage
from data_pipeline.io.errors import InputError, first_line, raise_machine
from data_pipeline.sources.fields import (
    KEYS,
    KNOWN,
    names_of,
    plain_name,
    present,
    read_fields,
    same_key,
)
from data_pipeline.sources.items import (
    TOO_LARGE,
    Image,
    Item,
    Place,
    Skip,
    limit_of,
    make_item,
    too_large,
)
from data_pipeline.sources.texts import gather

IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "image")  # img2dataset uses the encoding's name
BAD_PARQUET = "damaged parquet file"
_ROWS = 64  # read at a time


class DamagedError(Exception):
    """A parquet file ends early or contradicts itself; the rows read before are good."""


def image_column(path: str) -> str | None:
    """Return the name of the column with image bytes, or None where the file has none.

    Raises:
        DamagedError: the file cannot be opened as parquet.
    """
    with storage.open_read(path) as file:
        schema = _open(file, path).schema_arrow
    names = {plain_name(field.name): field.name for field in schema if _holds_bytes(field.type)}
    return next((names[name] for name in IMAGE_COLUMNS if name in names), None)


def read_parquet(path: str, name: str, column: str) -> Iterator[Item | Skip]:
    """Yield the rows of a file with image bytes in `column`, each as an Item or a Skip.

    Reading stops at a damaged row group; the last Skip says so.
    """
    row = 0
    with storage.open_read(path) as file:
        try:
            parquet = _open(file, path)
            for fields in _rows(parquet, [column, *_columns(parquet, column)], path):
                yield _item(fields, column, Place(path, row, -1))
                row += 1
        except DamagedError as e:
            yield Skip(name, BAD_PARQUET, f"after row {row}: {first_line(e)}")


def read_image(place: Place) -> bytes:
    """Return the image bytes of one row.

    It reads the whole row group, so do not call it for many rows.

    Raises:
        InputError: the file has changed.
    """
    try:
        column = image_column(place.file)
        with storage.open_read(place.file) as file:
            parquet, row = _open(file, place.file), place.offset
            for group in range(parquet.num_row_groups):
                count = parquet.metadata.row_group(group).num_rows
                if row < count:
                    return _bytes(
                        parquet.read_row_group(group, columns=[column]).column(0)[row].as_py()
                    )
                row -= count
    except DamagedError as e:
        raise InputError(
            f"{place.file} can no longer be read ({first_line(e)}); start a new build"
        ) from e
    raise InputError(f"{place.file} no longer has row {place.offset}; start a new build")


def read_metadata(path: str, on: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (value of the column `on`, {"url", "scores", "unreadable"}) for each row.

    Raises:
        InputError: there is no such column, or the file is damaged.
    """
    names = names_of("url") if plain_name(on) in names_of("url") else (plain_name(on),)
    with storage.open_read(path) as file:
        try:
            parquet = _open(file, path)
            columns = _columns(parquet)
            if not set(names) & set(map(plain_name, columns)):
                raise InputError(
                    f"--metadata {path} has no column {on!r} of text or numbers; give --join-on"
                    f" one of {', '.join(columns[:20])}"
                )
            for fields in _rows(parquet, columns, path):
                if (value := same_key(present(fields, names))) is not None:
                    told = read_fields(fields)
                    row = {"url": told.url, "scores": told.scores, "unreadable": told.unreadable}
                    yield value, row
        except DamagedError as e:
            raise InputError(
                f"--metadata {path} is damaged ({first_line(e)}); restore the file, or leave it out"
            ) from e


def _open(file: BinaryIO, path: str) -> Any:
    """Return the opened ParquetFile. Raises DamagedError, and InputError without pyarrow."""
    pyarrow = extras.load("pyarrow", f"reading {path}")
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise _damaged(e, path) from e


def _damaged(e: Exception, path: str) -> DamagedError:
    """Return the DamagedError for what reading raised.

    Raises OSError where the machine is to blame.
    Arrow's own lack of memory counts as damage, because a damaged length asks for any amount.
    """
    if isinstance(e, OSError):
        raise_machine(e, path)
    return DamagedError(str(e))


def _columns(parquet: Any, image: str = "") -> list[str]:
    """Return the columns of text and numbers, and all whose names fields.py knows.

    fields.py decides whether it understands their values. Images, dates and EXIF are left out.
    """
    return [
        field.name
        for field in parquet.schema_arrow
        if field.name not in ("exif", image)
        and (_is_plain(field.type) or plain_name(field.name) in KNOWN)
        and not (plain_name(field.name) in IMAGE_COLUMNS and _holds_bytes(field.type))
    ]


def _is_plain(kind: Any) -> bool:
    """Return whether a type is text, a number, a boolean, or a list or dictionary of these."""
    import pyarrow.types as kinds

    if kinds.is_dictionary(kind) or _is_list(kind):
        return _is_plain(kind.value_type)
    text = kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)
    number = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)
    return text or number or kinds.is_boolean(kind)


def _is_list(kind: Any) -> bool:
    """Return whether a type is one of Arrow's list types."""
    import pyarrow.types as kinds

    return any(
        is_kind(kind)
        for is_kind in (
            kinds.is_list,
            kinds.is_large_list,
            kinds.is_fixed_size_list,
            kinds.is_list_view,
            kinds.is_large_list_view,
        )
    )


def _holds_bytes(kind: Any) -> bool:
    """Return whether a column of that type can hold encoded images."""
    import pyarrow.types as kinds

    if kinds.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if kinds.is_struct(kind):  # Hugging Face's {"bytes", "path"}
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return (
        kinds.is_binary(kind)
        or kinds.is_large_binary(kind)
        or kinds.is_binary_view(kind)
        or kinds.is_fixed_size_binary(kind)
        or (_is_list(kind) and kinds.is_uint8(kind.value_type))
    )


def _rows(parquet: Any, columns: list[str], path: str) -> Iterator[dict[str, Any]]:
    """Yield rows as dicts: text that is not UTF-8 as bytes, two columns of one name as a list."""
    import pyarrow

    try:
        for batch in parquet.iter_batches(_ROWS, columns=list(dict.fromkeys(columns))):
            names = batch.schema.names
            for row in zip(*map(_values, batch.columns), strict=True):
                yield gather(list(zip(names, row, strict=True)))
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise _damaged(e, path) from e


def _values(column: Any) -> list[Any]:
    """Return a column's values as Python objects."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):  # one cell or more has no value in Python
        return list(map(_cell, column))


def _cell(value: Any) -> Any:
    """Return a cell's value, or bytes where Python cannot represent it.

    These are the bytes of a text that is not UTF-8, or else a byte that is not text either.
    """
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return value.as_buffer().to_pybytes() if hasattr(value, "as_buffer") else b"\xff"


def _item(fields: dict[str, Any], column: str, place: Place) -> Item | Skip:
    """Return the Item of a row, or the Skip that says why there is none."""
    stem = place.file.rpartition("/")[2].removesuffix(".parquet")
    key = same_key(present(fields, KEYS)) or f"{stem}-{place.offset:08d}"
    data = _bytes(fields.pop(column))
    if len(data) > limit_of("image"):
        return Skip(key, TOO_LARGE, too_large(key, len(data), limit_of("image")))
    return make_item(key, Image(data, place) if data else None, {}, fields)


def _bytes(value: Any) -> bytes:
    """Return the image bytes of a cell; empty where it has none."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return bytes(value) if isinstance(value, bytes | list) else b""
