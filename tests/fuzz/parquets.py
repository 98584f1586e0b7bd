"""Read damaged parquet files: python tests/fuzz/parquets.py --seconds 600.

Every try must end with items and skips, or with the one line of a table of metadata that is
damaged.
"""

import contextlib
import dataclasses
import functools
import random
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))

import mutation
import pyarrow as pa
import thrift_trees
from hostile_parquets import repeated, rows, written

from data_pipeline.builder.inputs import find_units, read_place, read_unit
from data_pipeline.io.errors import InputError
from data_pipeline.sources.items import Item
from data_pipeline.sources.parquet import read_metadata


@functools.cache
def seeds() -> list[bytes]:
    """Return small files of many types, encodings and compressions."""
    base = rows(3)
    columns = {
        "url": ["http://a", None, "http://b"],
        "punsafe": [0.5, None, 1.0],
        "captions": [["a", "b"], [], None],
        "nsfw": [{"a": 1}, None, {"a": 2}],
        "note": repeated("word", 3),
    }
    image = pa.StructArray.from_arrays([pa.array(base["png"]), pa.array(["x"] * 3)], ["bytes", "p"])
    struct = {**{k: v for k, v in base.items() if k != "png"}, "image": image}
    as_list = {
        **struct,
        "image": pa.array([list(png) for png in base["png"]], pa.list_(pa.uint8())),
    }
    files = [
        written({**base, **columns}, compression=kind, data_page_version=version)
        for kind in ("zstd", "snappy", "gzip", "none", "lz4", "brotli")
        for version in ("1.0", "2.0")
    ]
    files += [written(base, store_schema=True), written(struct), written(as_list)]
    files += [written(base, use_dictionary=False, column_encoding={"caption": "DELTA_BYTE_ARRAY"})]
    return [*files, written(base, row_group_size=1, write_page_index=True)]


def make(rng: random.Random) -> bytes:
    """Return a damaged file; most are still parquet, with wrong values in a footer or a page."""
    whole = rng.choice(seeds())
    kind = rng.random()
    if kind < 0.1:
        return mutation.mutated(seeds(), rng)
    footer = 8 + int.from_bytes(whole[-8:-4], "little")
    body, told = whole[:-footer], whole[-footer:-8]
    fields, _ = thrift_trees.parse(told)
    if kind < 0.4:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            thrift_trees.change(fields, rng)
    elif kind < 0.9:
        body = _pages(body, fields, rng)
    else:
        body = mutation.mutated([body], rng)
    told = thrift_trees.written(fields)
    return body + told + len(told).to_bytes(4, "little") + whole[-4:]


def _pages(body: bytes, footer: thrift_trees.Struct, rng: random.Random) -> bytes:
    """Return the file's pages with a few changes; the places of the columns in the footer move."""
    out = b"PAR1"
    groups = [group.value for group in footer[4].value]
    chunks = [column.value for group in groups for column in group[1].value]
    changed = rng.sample(range(len(chunks)), rng.choice((1, 1, 2)))
    for number, chunk in enumerate(chunks):
        meta = chunk[3].value
        starts = [meta[field] for field in (9, 11) if field in meta]
        at = first = min(start.value for start in starts)
        stop, begin = first + meta[7].value, len(out)
        while at < stop:
            header, start = thrift_trees.parse(body, at)
            data = body[start : start + header[3].value]
            for each in starts:
                if each.value == at:
                    moved = dataclasses.replace(each, value=len(out))
                    meta.update({field: moved for field in (9, 11) if meta.get(field) is each})
            at = start + len(data)
            if number in changed:
                header, data = _page(header, data, rng)
            out += thrift_trees.written(header) + data
        chunk[2].value += begin - first
        if rng.random() < 0.95:
            meta[7].value = len(out) - begin
    return out


def _page(
    header: thrift_trees.Struct, data: bytes, rng: random.Random
) -> tuple[thrift_trees.Struct, bytes]:
    """Return a page with a change of its header, of its bytes, or of both."""
    kind = rng.randrange(3)
    if kind != 1 and data:
        new = mutation.mutated([data], rng)
        data = (new + data[len(new) :])[: len(data)] if rng.random() < 0.7 else new
        header[3].value = len(data)
    if kind != 0:
        thrift_trees.change(header, rng)
    return header, data


def read(data: bytes) -> str:
    """Read the file as images and as a table. Returns how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        path.write_bytes(data)
        opened, whole = False, True
        with contextlib.suppress(InputError):  # no column of images
            (unit,) = find_units([str(path)], None)
            opened = bool(unit.column)
            for number, item in enumerate(read_unit(unit)):
                whole &= isinstance(item, Item)
                if isinstance(item, Item) and not number:
                    assert read_place(item.place) == item.image
        try:
            list(read_metadata(str(path), "key"))
        except InputError as e:
            whole = False
            opened |= "has no column" in str(e)
        else:
            opened = True
    if not opened:
        return mutation.UNOPENED
    return mutation.ACCEPTED if whole else mutation.DAMAGED


if __name__ == "__main__":
    sys.exit(mutation.run(__doc__, make, read))
