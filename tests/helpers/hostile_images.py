"""Make small image files that would cost their decoder memory or minutes."""

import functools
import struct
import zlib
from collections.abc import Callable

import numpy as np
from odd_images import chunk, exif, saved
from PIL import Image

MIB = 2**20
_PNG = b"\x89PNG\r\n\x1a\n"


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"", colour: int = 0) -> bytes:
    """Return a PNG with that size in its header, whatever its rows are."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"".join([_PNG, head, *chunks, body, chunk(b"IEND", b"")])


def _right(*chunks: bytes) -> bytes:
    """Return a good PNG of 16×16 with more chunks."""
    return png(16, 16, *chunks, rows=bytes(17 * 16))


def packed(size: int, kind: bytes = b"iCCP", name: bytes = b"x\0\0") -> bytes:
    """Return a chunk of `size` zeros, compressed."""
    return chunk(kind, name + zlib.compress(bytes(size), 9))


@functools.cache
def _progressive(side: int) -> tuple[bytes, bytes]:
    """Return (a progressive JPEG of that size up to its end, its last scan)."""
    data = saved(Image.new("RGB", (side, side), "gray"), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2], data[last:-2]


def scans(count: int, side: int = 2048) -> bytes:
    """Return a progressive JPEG with so many scans."""
    start, last = _progressive(side)
    return start + last * count + b"\xff\xd9"


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    """Return a JPEG with segments (marker, body) at its beginning."""
    data = saved(Image.new("RGB", (16, 16), "gray"), "JPEG")
    parts = [struct.pack(">BBH", 255, marker, len(body) + 2) + body for marker, body in segments]
    return data[:2] + b"".join(parts) + data[2:]


def exif_bomb(tags: int, size: int, room: int | None = None) -> bytes:
    """Return an EXIF block whose tags all are the same `size` bytes."""
    table = b"".join(struct.pack("<HHII", 0x1000 + i, 7, size, 8) for i in range(tags))
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, tags) + table + bytes(4)
    return block + bytes(size if room is None else room)


def avif_with(block: bytes) -> bytes:
    """Return an AVIF with an EXIF block, which is written in the place of a good one."""
    good = (b"Exif\0\0II*\0" + struct.pack("<IH", 8, 0)).ljust(len(block), b"\0")
    data = saved(Image.new("RGB", (16, 16), "gray"), "AVIF", exif=good)
    at = data.index(good[6:20])
    return data[:at] + block[6:] + data[at + len(block) - 6 :]


def jpeg2000(side: int, tile: int = 0, components: int = 3, **options) -> bytes:
    """Return a codestream with another size in its header."""
    image = Image.new("RGB", (64, 64), "gray")
    data = bytearray(saved(image, "JPEG2000", no_jp2=True, **options))
    struct.pack_into(">6I", data, 8, side, side, 0, 0, tile or side, tile or side)
    struct.pack_into(">H", data, 40, components)
    return bytes(data)


def webp_with(kind: bytes, body: bytes) -> bytes:
    """Return an extended WebP with one more chunk."""
    data = saved(Image.new("RGB", (16, 16), "gray"), "WEBP", exif=exif(1))
    parts, at = [], 12
    while at < len(data):
        size = struct.unpack("<I", data[at + 4 : at + 8])[0]
        if data[at : at + 4] != kind:
            parts.append(data[at : at + 8 + size + size % 2])
        at += 8 + size + size % 2
    body = kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    whole = b"WEBP" + b"".join(parts) + body
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def animated(count: int, kind: str) -> bytes:
    frames = [Image.new("L", (16, 16), i % 256) for i in range(count)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=10)


def _noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8))


USABLE, COSTLY, BOMB, DAMAGED = "", "too_costly", "decompression_bomb", "undecodable"
# what it is → (a function that makes it, what a build says of it)
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG of 1 × 2^26": (lambda: png(1, 2**26, rows=b"\0\0"), BOMB),
    "PNG of 1 × 2^31 - 1": (lambda: png(1, 2**31 - 1, rows=b"\0\0"), BOMB),
    "PNG of 2^26 × 1": (lambda: png(2**26, 1, rows=b"\0\0"), BOMB),
    "PNG of 2^31 - 1 × 2^31 - 1": (lambda: png(2**31 - 1, 2**31 - 1), BOMB),
    "PNG of 0 × 1": (lambda: png(0, 1), DAMAGED),
    "PNG of 60,000 × 1,000 and one row": (lambda: png(60_000, 1000, rows=b"\0"), DAMAGED),
    "PNG with 4 GB of pixels": (lambda: png(16, 16, rows=bytes(40 * MIB)), USABLE),
    "PNG of 200,000 empty parts": (lambda: _right(*[chunk(b"IDAT", b"")] * 200_000), COSTLY),
    "PNG of 200,000 unknown chunks": (lambda: _right(*[chunk(b"abcd", b"")] * 200_000), COSTLY),
    "PNG of a 40 MB profile": (lambda: _right(packed(40 * MIB)), USABLE),
    "PNG of 300 profiles of 17 MB": (lambda: _right(*[packed(17 * MIB)] * 300), USABLE),
    "PNG of 2,000 texts of a megabyte": (
        lambda: _right(*[packed(MIB, b"zTXt", b"Raw profile type exif\0\0")] * 2_000),
        USABLE,
    ),
    "PNG of a 40 MB text": (
        lambda: _right(packed(40 * MIB, b"zTXt", b"Raw profile type exif\0\0")),
        USABLE,
    ),
    "PNG with EXIF of 60 GB": (
        lambda: _right(chunk(b"eXIf", exif_bomb(60_000, MIB)[6:])),
        USABLE,
    ),
    "WebP with EXIF of 60 GB": (lambda: webp_with(b"EXIF", exif_bomb(60_000, MIB)), USABLE),
    "AVIF with EXIF of 60 GB": (
        lambda: avif_with(exif_bomb(60_000, MIB)),
        COSTLY,
    ),
    "JPEG with EXIF of 300 MB": (
        lambda: jpeg_with((0xE1, exif_bomb(3_000, 28_000))),
        USABLE,
    ),
    "JPEG with EXIF in 20 parts of 5 GB": (
        lambda: jpeg_with(
            (0xE1, exif_bomb(5_000, MIB, 0)), *[(0xE1, b"Exif\0\0" + bytes(60_000))] * 20
        ),
        USABLE,
    ),
    "EXIF whose tables follow one another for ever": (
        lambda: jpeg_with((0xE1, exif(1)[:-4] + struct.pack("<I", 8))),
        USABLE,
    ),
    "JPEG of 20,000 scans": (lambda: scans(20_000), COSTLY),
    "JPEG of 300 scans": (lambda: scans(300, 256), COSTLY),
    "JPEG of 40 scans": (lambda: scans(40, 256), USABLE),
    "JPEG of 65,500 × 1,000 and no scan": (
        lambda: _progressive(16)[0].replace(b"\x00\x10\x00\x10\x03", b"\x03\xe8\xff\xdc\x03", 1),
        DAMAGED,
    ),
    "JPEG of 1,000 comments": (lambda: jpeg_with(*[(0xFE, bytes(60_000))] * 300), USABLE),
    "APNG of 300 frames": (lambda: animated(300, "PNG"), USABLE),
    "WebP of 300 frames": (lambda: animated(300, "WEBP"), USABLE),
    "GIF of 300 frames": (lambda: animated(300, "GIF"), "unsupported_format_GIF"),
    "TIFF of 3 frames": (lambda: animated(3, "TIFF"), "unsupported_format_TIFF"),
    "JPEG 2000 of 4×4 blocks": (lambda: jpeg2000(8192, codeblock_size=(4, 4)), COSTLY),
    "JPEG 2000 of 4×4 precincts": (
        lambda: jpeg2000(8192, codeblock_size=(4, 4), precinct_size=(4, 4)),
        COSTLY,
    ),
    "JPEG 2000 of 65,536 tiles": (lambda: jpeg2000(8192, 32), COSTLY),
    "JPEG 2000 of 16,000 components": (lambda: jpeg2000(8192, 0, 16_000), COSTLY),
    "JPEG 2000 of a larger picture than it says": (
        lambda: saved(Image.new("RGB", (64, 64)), "JPEG2000").replace(
            bytes((0, 0, 0, 64)) * 2 + bytes(8), struct.pack(">4I", 2**14, 2**14, 0, 0)
        ),
        COSTLY,
    ),
    "JPEG 2000 of a good size": (
        lambda: saved(_noise(64), "JPEG2000", codeblock_size=(4, 4), tile_size=(16, 16)),
        USABLE,
    ),
    "JPEG 2000 of 30 layers": (
        lambda: saved(_noise(64), "JPEG2000", quality_layers=list(range(60, 0, -2))),
        USABLE,
    ),
}
