"""Test parquet columns of every type that can hold a filter's field or an image."""

import decimal

import pyarrow
import pytest
from image_shards import encoded
from pyarrow import parquet

from data_pipeline.builder.inputs import find_units, read_place, read_unit
from data_pipeline.sources.items import Item
from data_pipeline.sources.parquet import image_column, read_metadata

TEXTS = (
    pyarrow.string(),
    pyarrow.large_string(),
    pyarrow.string_view(),
    pyarrow.binary(),
    pyarrow.large_binary(),
    pyarrow.binary_view(),
    pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
    pyarrow.dictionary(pyarrow.int8(), pyarrow.binary()),
    pyarrow.list_(pyarrow.string()),
    pyarrow.large_list(pyarrow.binary()),
    pyarrow.list_(pyarrow.string(), 1),
)
NUMBERS = (
    pyarrow.float16(),
    pyarrow.float32(),
    pyarrow.decimal128(6, 3),
    pyarrow.decimal256(40, 3),
    pyarrow.list_(pyarrow.float64()),
    pyarrow.dictionary(pyarrow.int8(), pyarrow.float64()),
    *TEXTS,
)
IMAGES = (
    pyarrow.binary(),
    pyarrow.large_binary(),
    pyarrow.binary_view(),
    pyarrow.dictionary(pyarrow.int32(), pyarrow.binary()),
    pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
    pyarrow.struct([("bytes", pyarrow.large_binary())]),
    pyarrow.list_(pyarrow.uint8()),
)


def array(value, kind):
    """Return the value and a null as an array of that type."""
    if pyarrow.types.is_dictionary(kind):
        return array(value, kind.value_type).dictionary_encode().cast(kind)
    if hasattr(kind, "value_type"):
        # parquet has no null among lists of one size
        none = [None] if pyarrow.types.is_fixed_size_list(kind) else None
        return pyarrow.array([[_value(value, kind.value_type)], none], kind)
    return pyarrow.array([_value(value, kind), None], kind)


def _value(value, kind):
    if pyarrow.types.is_decimal(kind):
        return decimal.Decimal(str(value))
    if kind == pyarrow.float16():
        import numpy as np

        return np.float16(value)
    binary = (pyarrow.types.is_binary, pyarrow.types.is_large_binary, pyarrow.types.is_binary_view)
    if any(is_kind(kind) for is_kind in binary):
        return str(value).encode()
    return value if pyarrow.types.is_floating(kind) else str(value)


def written(tmp_path, **columns):
    table = pyarrow.table({"key": ["a", "b"], **columns})
    parquet.write_table(table, tmp_path / "a.parquet")
    return str(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_texts(kind, tmp_path):
    path = written(tmp_path, URL=array("http://a", kind), nsfw=array("NSFW", kind))
    assert dict(read_metadata(path, "Key")) == {
        "a": {"url": "http://a", "scores": {"nsfw": "NSFW"}, "unreadable": {}},
        "b": {"url": "", "scores": {}, "unreadable": {}},
    }
    assert [key for key, _ in read_metadata(path, "url")] == ["http://a"]


@pytest.mark.parametrize("kind", NUMBERS, ids=str)
def test_numbers(kind, tmp_path):
    ((_, row), _) = read_metadata(written(tmp_path, punsafe=array(0.125, kind)), "key")
    assert row == {"url": "", "scores": {"punsafe": 0.125}, "unreadable": {}}


@pytest.mark.parametrize(
    "field",
    [
        pyarrow.array([{"score": 0.9}, None]),
        pyarrow.array([b"\xff\xfe", None]),
        pyarrow.array([b"\xff\xfe", None]).view(pyarrow.string()),
        pyarrow.array([1, None], pyarrow.timestamp("s")),
        pyarrow.array([2**62, None], pyarrow.timestamp("us")),  # in no year that Python knows
        pyarrow.array([[("a", 0.9)], None], pyarrow.map_(pyarrow.string(), pyarrow.float64())),
    ],
    ids=lambda field: str(field.type),
)
def test_types_that_are_no_number_are_unreadable_and_not_missing(field, tmp_path):
    ((_, wrong), (_, missing)) = read_metadata(written(tmp_path, punsafe=field), "key")
    assert list(wrong["unreadable"]) == ["unsafe"]
    assert not wrong["scores"]
    assert not missing["unreadable"]


@pytest.mark.parametrize("kind", IMAGES, ids=str)
@pytest.mark.parametrize("name", ["png", "Image"])
def test_images(kind, name, tmp_path):
    image = encoded(1)
    if pyarrow.types.is_struct(kind):
        data = pyarrow.array([{"bytes": image}, None], kind)
    elif pyarrow.types.is_dictionary(kind):
        data = pyarrow.array([image, None]).dictionary_encode()
    else:
        data = pyarrow.array([list(image) if kind == IMAGES[-1] else image, None], kind)
    path = written(tmp_path, **{name: data}, TEXT=["caption", "of nothing"])
    assert image_column(path) == name
    (unit,) = find_units([path], None)
    item, skip = read_unit(unit)
    assert (item.image, item.caption, item.key) == (image, "caption", "a")
    assert read_place(item.place) == image
    assert (skip.key, skip.reason) == ("b", "no image")


def test_a_column_twice_is_two_values(tmp_path):
    columns = [pyarrow.array(["a"]), pyarrow.array([0.1]), pyarrow.array([0.9])]
    table = pyarrow.Table.from_arrays(columns, names=["key", "punsafe", "punsafe"])
    parquet.write_table(table, tmp_path / "a.parquet")
    ((_, row),) = read_metadata(str(tmp_path / "a.parquet"), "key")
    assert row["unreadable"] == {"unsafe": "punsafe = 0.1, 0.9"}


def test_a_text_that_is_not_utf8_is_no_missing_one(tmp_path):
    latin = pyarrow.array([b"http://caf\xe9", b"http://b"]).view(pyarrow.string())
    images = {"png": [encoded(1), encoded(2)], "caption": ["x", "y"]}
    (unit,) = find_units([written(tmp_path, url=latin, **images)], None)
    first, second = read_unit(unit)
    assert isinstance(first, Item)
    assert first.unreadable == {"url": "url = b'http://caf\\xe9'"}
    assert (second.url, second.unreadable) == ("http://b", {})
