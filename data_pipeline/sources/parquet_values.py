"""Which columns of a parquet file are read, and their values as Python objects."""

from typing import Any

from data_pipeline.sources.fields import KNOWN, plain_name

IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "image")  # img2dataset uses the encoding's name


def image_column_of(schema: Any) -> str | None:
    """Return the name of the column with image bytes, or None where there is none."""
    names = {plain_name(field.name): field.name for field in schema if _holds_bytes(field.type)}
    return next((names[name] for name in IMAGE_COLUMNS if name in names), None)


def columns_of(schema: Any, image: str = "") -> list[str]:
    """Return the columns of text and numbers, and all whose names fields.py knows.

    fields.py decides whether it understands their values. Images, dates and EXIF are left out.
    """
    return [
        field.name
        for field in schema
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


def values_of(column: Any, *, image: bool = False) -> list[Any]:
    """Return a column's values as Python objects.

    A value of a dictionary is one object, however many rows have it. Of a type that is neither
    text nor number nor a list of these, a value is the name of the type.

    image: whether a list of numbers is the bytes of an image.
    """
    import pyarrow.types as kinds

    if kinds.is_dictionary(column.type):
        words = values_of(column.dictionary)
        return [None if i is None else words[i] for i in column.indices.to_pylist()]
    if kinds.is_list(column.type) or kinds.is_large_list(column.type):
        whole = column.values
        values = whole.fill_null(0).to_numpy() if image else values_of(whole)
        ends = column.offsets.to_pylist()
        lists = [values[ends[i] : ends[i + 1]] for i in range(len(column))]
        there = column.is_valid().to_pylist()
        lists = [each.tobytes() for each in lists] if image else lists
        return [each if is_there else None for each, is_there in zip(lists, there, strict=True)]
    if kinds.is_nested(column.type) and not (_is_plain(column.type) or image):
        name = f"a value of the type {str(column.type)[:60]}"
        return [name if is_there else None for is_there in column.is_valid().to_pylist()]
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
