"""PNGs without what Pillow may refuse them for, and what it gets wrong about their pixels.

Pillow ends a file of which one text, or the colour profile, unpacks to more than a megabyte, or
whose unused chunks are damaged: the pixels are good all the same.
"""

import zlib

_START = b"\x89PNG\r\n\x1a\n"
# what pixels, their transparency, orientation and number of frames are of
_KEPT = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # texts that may tell it
MAX_TEXT = 2**20  # bytes, unpacked: Pillow's own limit
MAX_PROFILE = 2**24  # bytes, unpacked; a printer's has two million


def without_extras(data: bytes) -> tuple[bytes, bytes | None]:
    """(the same PNG without chunks that do not change how it looks, its ICC profile or None).

    What is damaged beyond the chunks' names and lengths stays as it is, for Pillow to refuse.
    """
    parts, profile, at = [data[:8]], None, len(_START)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data):
            break
        body = data[at + 8 : end - 4] if kind in _TEXTS or kind == b"iCCP" else b""
        if kind == b"iCCP":
            profile = profile or _unpacked(body.partition(b"\0")[2], MAX_PROFILE)
        elif not kind[:1].islower() or kind in _KEPT or (kind in _TEXTS and _tells(kind, body)):
            parts.append(data[at:end])
        at = end
        if kind == b"IEND":
            return b"".join(parts), profile
    return b"".join([*parts, data[at:]]), profile


def _tells(kind: bytes, body: bytes) -> bool:
    """Whether a text may hold the orientation, and is small enough to be read."""
    if not body.startswith(_ORIENTATION):
        return False
    packed = body.partition(b"\0")[2]
    if kind == b"iTXt" and packed[:1] == b"\1":  # flag, method, language, translated keyword
        packed = packed[1:2] + packed[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif kind != b"zTXt":
        return len(body) <= MAX_TEXT
    return _unpacked(packed, MAX_TEXT) is not None


def _unpacked(packed: bytes, most: int) -> bytes | None:
    """A method's byte and packed bytes, unpacked; None where they are damaged, or more than
    `most`.
    """
    if packed[:1] != b"\0":
        return None
    try:
        value = zlib.decompressobj().decompress(packed[1:], most + 1)
    except zlib.error:
        return None
    return value if 0 < len(value) <= most else None


def transparent(key: object, data: bytes, mode: str) -> object:
    """The colour that a PNG calls transparent, as Pillow's pixels have it.

    Pillow gives it in the file's own depth, and pixels of 2 and 4 bits, and of 16 bits and three
    channels, in 8.
    """
    depth = data[24]
    if mode == "L" and depth in (2, 4) and isinstance(key, int):
        most = 2**depth - 1
        return (key & most) * 255 // most
    if mode == "RGB" and depth == 16 and isinstance(key, tuple):
        return tuple(value >> 8 for value in key)
    return key
