"""Read tars of random headers, whole or damaged: python tests/fuzz/tars.py --seconds 600.

Every try must end with items and skips, whose bytes add up to those of the file at most, and an
item's bytes must be at its place.
"""

import io
import random
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))

import mutation
from hostile_tars import end, good, header, member, number, record, sparse_map

from data_pipeline.sources.items import Item
from data_pipeline.sources.tar_headers import DamagedTarError, TarReader
from data_pipeline.sources.tars import read_tar

KINDS = [bytes([kind]) for kind in b"\x00\x001234567ggxxXLLKKSSVMNDA~0000"]
NAMES = [b"9.png", b"9.txt", b"9.json", b"9.jpg", b"9/", b"", b"9", b".png", b"\xff.png", b"9.PNG"]
WORDS = ["path", "linkpath", "size", "GNU.sparse.size", "GNU.sparse.name", "GNU.sparse.major"]
WORDS += ["GNU.sparse.map", "GNU.sparse.realsize", "hdrcharset", "mtime", "uid", ""]
# (place, width) of a header's fields
FIELDS = [(0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (157, 100)]
FIELDS += [(257, 6), (263, 2), (265, 32), (297, 32), (329, 8), (337, 8), (345, 155), (482, 1)]
FIELDS += [(386, 24), (483, 12), (504, 1)]
VALUES = [b"", b"\0", b"\1", b"x", b" ", b"-1", b"9", b"7" * 12, b"\x80", b"\xff" * 12]
VALUES += [
    b"\x80" + b"\0" * 10 + b"\1",
    b"ustar ",
    b"ustar\0",
    b"S",
    b"L",
    b"/",
    b"../9.png",
    b"00",
]
SIZES = [0, 1, 9, 511, 512, 513, 2**20, 2**26, 2**33 - 1]


def make(rng: random.Random) -> bytes:
    """Return a tar of a few random parts."""
    parts = [good(rng.randrange(4)) for _ in range(rng.choice((0, 1, 1, 2)))]
    parts += [_part(rng) for _ in range(rng.randint(1, 6))]
    parts += [good(rng.randrange(4)) for _ in range(rng.randrange(3))]
    data = b"".join(parts)
    data = end(data) if rng.random() < 0.8 else data
    damage = rng.random()
    if damage < 0.3:
        return _fields_changed(data, rng)
    return mutation.mutated([data], rng) if damage < 0.45 else data


def _fields_changed(data: bytes, rng: random.Random) -> bytes:
    """Return a tar with a field of some blocks changed, and with checksums that are right."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    for _ in range(rng.randint(1, 4)):
        number = rng.randrange(len(blocks))
        place, width = rng.choice(FIELDS)
        value = rng.choice(VALUES) if rng.random() < 0.7 else rng.randbytes(width)
        block = blocks[number][:place] + value[:width].ljust(width, b"\0")
        block = (block + blocks[number][place + width :]).ljust(512, b"\0")
        told = sum(block[:148]) + sum(block[156:]) + 8 * 32
        blocks[number] = block[:148] + b"%06o\0 " % told + block[156:]
        if rng.random() < 0.2:
            blocks.insert(rng.randrange(len(blocks)), rng.choice(blocks))
    return b"".join(blocks)


def _part(rng: random.Random) -> bytes:
    kind, name = rng.choice(KINDS), rng.choice(NAMES)
    if kind in b"xXg" and rng.random() < 0.9:
        count = rng.choice((1, 1, 2, 5, 40))
        data = b"".join(record(rng.choice(WORDS), _value(rng)) for _ in range(count))
        return member(b"pax", data, kind) * rng.choice((1, 1, 1, 3, 30))
    if kind in b"LK" and rng.random() < 0.9:
        data = rng.choice((b"9.png\0", b"8" * 300 + b".txt\0", b"", rng.randbytes(40)))
        return member(b"long", data, kind) * rng.choice((1, 1, 1, 3, 30))
    size: int | bytes = rng.choice(SIZES)
    if rng.random() < 0.3:
        size = rng.choice((number(size, 12), number(2**85, 12), b"\xff" * 12, rng.randbytes(12)))
    extra = sparse_map((0, 9), more=rng.random() < 0.5) if kind == b"S" else b""
    data = rng.randbytes(rng.choice((0, 512, 1024)))
    if rng.random() < 0.6:
        size = len(data)
    return header(name, size, kind, extra=extra, link=rng.choice(NAMES)) + data


def _value(rng: random.Random) -> bytes | int:
    if rng.random() < 0.5:
        return rng.choice((*SIZES, 2**60, 2**85, -1, 10**30))
    return rng.choice((*NAMES, b"1,2", b"x" * 5000, b"1.5", b"\0", rng.randbytes(9)))


def read(data: bytes) -> str:
    """Read the tar, and check what was read. Returns how it ended."""
    total, whole = 0, True
    for item, size in read_tar(io.BytesIO(data), "x.tar", "x.tar", len(data)):
        total += size
        assert size >= 0, f"{size} bytes"
        whole &= isinstance(item, Item)
        if isinstance(item, Item):
            place = item.place
            assert data[place.offset : place.offset + place.size] == item.image, place
        else:
            assert 0 <= item.lost <= len(data), f"{item.lost} bytes lost"
            assert len(item.key) <= 3000
    assert total <= len(data), f"{total} of {len(data)} bytes"
    try:
        next(iter(TarReader(io.BytesIO(data), len(data))), None)
    except DamagedTarError:
        return mutation.UNOPENED
    return mutation.ACCEPTED if whole else mutation.DAMAGED


if __name__ == "__main__":
    sys.exit(mutation.run(__doc__, make, read))
