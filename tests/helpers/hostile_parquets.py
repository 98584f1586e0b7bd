"""Make small parquet files that would cost their reader memory, time or its stack.

Footers and pages that no library writes are made byte by byte, in Thrift's compact protocol.
"""

import functools
import io
import struct
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from image_shards import encoded
from pyarrow import parquet

MIB = 2**20
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def integer(number: int) -> bytes:
    return varint((number << 1 ^ number >> 63) & 2**64 - 1)


def fields(*parts: tuple[int, int, bytes]) -> bytes:
    """Return a struct of (id, type, encoded value)."""
    out, last = b"", 0
    for number, kind, value in parts:
        out, last = out + bytes([number - last << 4 | kind]) + value, number
    return out + b"\0"


def listed(values: list[bytes], kind: int = _STRUCT) -> bytes:
    return bytes([0xF0 | kind]) + varint(len(values)) + b"".join(values)


def element(name: bytes, children: int = 0, physical: int | None = None) -> bytes:
    """Return an element of a schema: a group of `children`, or a column."""
    told = [(1, _I32, integer(physical))] if physical is not None else []
    told += [(3, _I32, integer(1)), (4, _BINARY, varint(len(name)) + name)]
    return fields(*told, *([(5, _I32, integer(children))] if children else []))


def footer(
    elements: list[bytes], rows: int = 0, groups: bytes = b"\x0c", more: bytes = b""
) -> bytes:
    """Return a file of a footer alone; `groups` is an encoded list."""
    told = fields(
        (1, _I32, integer(1)),
        (2, _LIST, listed(elements)),
        (3, _I64, integer(rows)),
        (4, _LIST, groups),
    )
    told = told[:-1] + more + b"\0"
    return b"PAR1" + told + struct.pack("<I", len(told)) + b"PAR1"


def written(columns, schema=None, **options) -> bytes:
    """Return a file of the columns, without Arrow's own schema unless it is asked for."""
    out = io.BytesIO()
    table = columns if isinstance(columns, pa.Table) else pa.table(columns, schema=schema)
    given = {"compression": "zstd", "store_schema": False, "dictionary_pagesize_limit": 2**30}
    parquet.write_table(table, out, **{**given, **options})
    return out.getvalue()


@functools.cache
def rows(count: int) -> dict[str, list]:
    return {
        "key": [f"{i:03d}" for i in range(count)],
        "png": [encoded(1)] * count,
        "caption": ["a caption"] * count,
    }


def repeated(value, count: int, kind=None) -> pa.DictionaryArray:
    """Return a column that has one value `count` times and stores it once."""
    return pa.DictionaryArray.from_arrays(
        pa.array([0] * count, pa.int32()), pa.array([value], kind)
    )


def lists(value, count: int) -> pa.ListArray:
    """Return one row with a list that has one value `count` times."""
    return pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), repeated(value, count))


_ROOT, _LEAF = element(b"root", 1), element(b"png", 0, 6)

_NAMES = bytes([0x18]) + varint(3) + b"png"
_CHUNK = fields(
    (2, _I64, integer(4)),
    (
        3,
        _STRUCT,
        fields(
            (1, _I32, integer(6)),
            (2, _LIST, listed([integer(0)], _I32)),
            (3, _LIST, _NAMES),
            (4, _I32, integer(0)),
            (5, _I64, integer(1)),
            (6, _I64, integer(9)),
            (7, _I64, integer(9)),
            (9, _I64, integer(4)),
            (16, _STRUCT, fields((2, _LIST, listed([integer(0)] * 7, _I64)))),
        ),
    ),
)


def _twice(name: str, *kinds) -> bytes:
    base = rows(2)
    columns = [pa.array(base[c]) for c in base] + [
        pa.array(base[name] if kind is None else [None] * 2, kind) for kind in kinds
    ]
    return written(pa.Table.from_arrays(columns, names=[*base, *[name] * len(kinds)]))


def _of(count: int, **columns) -> bytes:
    return written({**rows(count), **columns})


# what it is → a function that makes the file
HOSTILE: dict[str, Callable[[], bytes]] = {
    "one caption of 5 MB in 64 rows": lambda: _of(64, caption=repeated("a" * 5 * MIB, 64)),
    "one image of 5 MB in 64 rows": lambda: _of(64, png=repeated(bytes(5 * MIB), 64)),
    "one image of 5 MB in 64 structs": lambda: written(
        {
            **{k: v for k, v in rows(64).items() if k != "png"},
            "image": pa.StructArray.from_arrays([repeated(bytes(5 * MIB), 64)], ["bytes"]),
        }
    ),
    "one URL of 5 MB in 64 rows": lambda: _of(64, url=repeated("a" * 5 * MIB, 64)),
    "one key of 5 MB in 64 rows": lambda: _of(64, key=repeated("a" * 5 * MIB, 64)),
    "a text of 5 MB that nobody knows": lambda: _of(64, note=repeated("a" * 5 * MIB, 64)),
    "a dictionary of Arrow's own": lambda: written(
        {**rows(64), "caption": repeated("a" * 5 * MIB, 64)}, store_schema=True
    ),
    "captions by shared beginnings": lambda: written(
        {**rows(64), "caption": ["a" * (MIB // 2)] * 64},
        use_dictionary=False,
        column_encoding={"caption": "DELTA_BYTE_ARRAY"},
    ),
    "one caption of 5 MB in a list of 1,000": lambda: _of(1, caption=lists("a" * 5 * MIB, 1_000)),
    "a list of 100,000 captions": lambda: _of(1, caption=lists("a" * 1000, 10**5)),
    "a list of 2 million nothings": lambda: _of(
        1, caption=pa.ListArray.from_arrays([0, 2_000_000], pa.nulls(2_000_000, pa.string()))
    ),
    "a list of lists of 2 million": lambda: _of(
        1, caption=pa.ListArray.from_arrays([0, 1], lists("a", 2_000_000))
    ),
    "a score in a list of 2 million": lambda: _of(
        1,
        punsafe=pa.ListArray.from_arrays([0, 2_000_000], np.zeros(2_000_000, np.float32)),
    ),
    "a map of 100,000": lambda: _of(
        1,
        nsfw=pa.MapArray.from_arrays(
            [0, 10**5], pa.array(map(str, range(10**5))), pa.nulls(10**5, pa.string())
        ),
    ),
    "a page of 30 MB": lambda: written({**rows(1), "png": [bytes(30 * MIB)]}, use_dictionary=False),
    "a million rows of nothing": lambda: written(
        {"png": pa.nulls(10**6, pa.binary()), "key": pa.nulls(10**6, pa.string())}
    ),
    "two images of one name": lambda: _twice("png", None),
    "three images of one name": lambda: _twice("png", None, pa.binary()),
    "an image and a text of one name": lambda: _twice("png", pa.string()),
    "an image and a list of one name": lambda: _twice("png", pa.list_(pa.uint8())),
    "two keys of one name": lambda: _twice("key", None),
    "two captions of one name": lambda: _twice("caption", None, pa.int64()),
    "a name with a dot": lambda: _of(2, **{"png.bytes": [b"x", b"y"], "png.": ["x", "y"]}),
    "a name of a megabyte": lambda: _of(2, **{"x" * MIB: [1, 2]}),
    "an empty name": lambda: _of(2, **{"": [1, 2], " ": [3, 4]}),
    "1,000 columns": lambda: written({**rows(1), **{f"c{i}": [i] for i in range(1000)}}),
    "40,000 row groups": lambda: footer(
        [_ROOT, _LEAF], 40_000, listed([fields((1, _LIST, b"\x0c"))] * 40_000)
    ),
    "columns 200,000 deep": lambda: footer(
        [_ROOT, *[element(b"a", 1)] * 200_000, element(b"x", 0, 6)]
    ),
    "columns 1,000 deep": lambda: footer([_ROOT, *[element(b"a", 1)] * 1_000, element(b"x", 0, 6)]),
    "a second list of deep columns": lambda: footer(
        [_ROOT, _LEAF],
        more=bytes([_LIST]) + integer(2) + listed([_ROOT, *[element(b"a", 1)] * 200_000, _LEAF]),
    ),
    "a histogram of a wrong length": lambda: footer(
        [_ROOT, _LEAF],
        1,
        listed(
            [fields((1, _LIST, listed([_CHUNK])), (2, _I64, integer(9)), (3, _I64, integer(1)))]
        ),
    ),
    "a group of 2^30 columns": lambda: footer([element(b"root", 2**30), _LEAF]),
    "a list of 2^60 columns": lambda: (
        b"PAR1\x15\x02\x19\xfc" + varint(2**60) + struct.pack("<I", 13) + b"PAR1"
    ),
    "a footer of structs in structs": lambda: (
        b"PAR1" + b"\x1c" * 10**6 + struct.pack("<I", 10**6) + b"PAR1"
    ),
    "a footer of lists in lists": lambda: (
        b"PAR1" + b"\x19" * 10**6 + struct.pack("<I", 10**6) + b"PAR1"
    ),
    "a footer of 2 GB": lambda: b"PAR1" + bytes(100) + struct.pack("<I", 2**31) + b"PAR1",
    "a footer longer than the file": lambda: b"PAR1" + bytes(9) + struct.pack("<I", 99) + b"PAR1",
    "rows of 2^62": lambda: footer([_ROOT, _LEAF], 2**62),
    "rows of -1": lambda: footer([_ROOT, _LEAF], -1),
    "rows without a row group": lambda: footer([_ROOT, _LEAF], 1000),
    "an encrypted file": lambda: written(rows(1))[:-4] + b"PARE",
    "a metadata value of 2 MB": lambda: written(
        pa.table(rows(1)).replace_schema_metadata({"x": "y" * 2 * MIB})
    ),
}
