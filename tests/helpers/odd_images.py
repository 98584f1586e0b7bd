"""Write image files byte by byte that image libraries cannot write.

They have EXIF tags of the wrong type, PNG chunks or colour profiles.
"""

import io
import struct
import zlib

from PIL import Image

from data_pipeline.images.formats import has_heif

ORIENTATION = 0x0112


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    assert kind != "HEIF" or has_heif()
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: int, *others: tuple[int, int, int, bytes]) -> bytes:
    """Return an EXIF block; `others` are (tag, type, count, value) as in TIFF."""
    entries = sorted([(ORIENTATION, 3, 1, struct.pack("<H", orientation)), *others])
    at, table, values = 8 + 2 + 12 * len(entries) + 4, struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in entries:
        table += struct.pack("<HHI", tag, kind, count)
        if len(value) > 4:
            table += struct.pack("<I", at + len(values))
            values += value
        else:
            table += value.ljust(4, b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + table + bytes(4) + values


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth: int, colour: int, rows: list[bytes], *chunks: bytes, after: bytes = b"") -> bytes:
    """Return a PNG of packed rows with `chunks` before its pixels and `after` behind them.

    `colour` is 0 for grey, 2 for RGB, 3 for a palette.
    """
    width = len(rows[0]) * 8 // (depth * (3 if colour == 2 else 1))
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Return a display's ICC profile, version 2, with these tags."""
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"x\0",
        b"wtpt": _xyz(0.9642, 1.0, 0.8249),
        **tags,
    }
    table, body, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value
    size = struct.pack(">I", at + len(body))
    head = size + bytes(4) + b"\x02\x40\0\0" + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp"
    return (head + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0") + (
        table + body
    )


def _gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256)) + bytes(2)


# sRGB's red, green and blue in the profiles' own space
_PRIMARIES = ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))


def rgb_profile(gamma: float, order: tuple[int, int, int] = (0, 1, 2)) -> bytes:
    """Return the profile of a screen whose channels are sRGB's in the given order."""
    colours = {
        name: _xyz(*_PRIMARIES[which])
        for name, which in zip((b"rXYZ", b"gXYZ", b"bXYZ"), order, strict=True)
    }
    return profile(
        b"RGB ", {**colours, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(gamma))}
    )


def grey_profile(gamma: float) -> bytes:
    return profile(b"GRAY", {b"kTRC": _gamma(gamma)})
