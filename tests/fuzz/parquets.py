"""Read damaged parquet files: python tests/fuzz/parquets.py --seconds 600.

Every try must end with items and skips, or with the one line of a table of metadata that is
damaged.
"""

import contextlib
import functools
import random
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))

import mutation
import pyarrow as pa
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
    """Return a damaged file, whose last bytes mostly still say that it is parquet."""
    if rng.random() < 0.2:
        return mutation.mutated(seeds(), rng)
    whole = rng.choice(seeds())
    footer = 8 + int.from_bytes(whole[-8:-4], "little")
    body, told = whole[:-footer], whole[-footer:-8]
    if rng.random() < 0.5:
        told = mutation.mutated([told], rng)
    else:
        body = mutation.mutated([body], rng)
    return body + told + len(told).to_bytes(4, "little") + whole[-4:]


def read(data: bytes) -> None:
    """Read the file as images and as a table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        path.write_bytes(data)
        with contextlib.suppress(InputError):  # no column of images
            (unit,) = find_units([str(path)], None)
            for number, item in enumerate(read_unit(unit)):
                if isinstance(item, Item) and not number:
                    assert read_place(item.place) == item.image
        with contextlib.suppress(InputError):
            list(read_metadata(str(path), "key"))


if __name__ == "__main__":
    sys.exit(mutation.run(__doc__, make, read))
