"""Preparing PNGs for Pillow: removing chunks that it may fail on, and correcting transparency.

Pillow refuses a file in which one text or the colour profile decompresses to more than a megabyte,
or whose ancillary chunks are damaged, although the pixels are good.
"""

import zlib

_START = b"\x89PNG\r\n\x1a\n"
# chunks of the transparency, the orientation and the frames
_KEPT = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # texts that may hold it
MAX_TEXT = 2**20  # bytes after decompression: Pillow's own limit
MAX_PROFILE = 2**24  # bytes after decompression; a printer's profile has two million


def without_extras(data: bytes) -> tuple[bytes, bytes | None]:
    """Return (the PNG without chunks that do not change its look, its ICC profile or None).

    Damage other than in the names and lengths of chunks is left for Pillow to refuse.
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
    """Return whether a text may hold the orientation and is small enough to be read."""
    if not body.startswith(_ORIENTATION):
        return False
    packed = body.partition(b"\0")[2]
    if kind == b"iTXt" and packed[:1] == b"\1":  # flag, method, language, translated keyword
        packed = packed[1:2] + packed[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif kind != b"zTXt":
        return len(body) <= MAX_TEXT
    return _unpacked(packed, MAX_TEXT) is not None


def _unpacked(packed: bytes, most: int) -> bytes | None:
    """Return decompressed bytes, or None where they are damaged or more than `most`.

    packed: the byte of the compression method, then the compressed bytes.
    """
    if packed[:1] != b"\0":
        return None
    try:
        value = zlib.decompressobj().decompress(packed[1:], most + 1)
    except zlib.error:
        return None
    return value if 0 < len(value) <= most else None


def transparent(key: object, data: bytes, mode: str) -> object:
    """Return the colour that a PNG makes transparent, on the scale of Pillow's pixels.

    Pillow returns it at the file's bit depth, but converts pixels of 2 and 4 bits, and of 16 bits
    with three channels, to 8 bits.
    """
    depth = data[24]
    if mode == "L" and depth in (2, 4) and isinstance(key, int):
        most = 2**depth - 1
        return (key & most) * 255 // most
    if mode == "RGB" and depth == 16 and isinstance(key, tuple):
        return tuple(value >> 8 for value in key)
    return key
