"""Preparing PNGs for Pillow: removing chunks that it may fail on, and correcting transparency.

Pillow refuses a file in which one text or the colour profile decompresses to more than a megabyte,
or whose ancillary chunks are damaged, although the pixels are good.
"""

import itertools
import zlib

from data_pipeline.images.bounds import MAX_PROFILE, TooCostlyError

_START = b"\x89PNG\r\n\x1a\n"
# chunks of the transparency, the orientation and the frames
_KEPT = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # texts that may hold it
MAX_CHUNKS = 2**16  # 64 MiB in parts of 8 KiB, as libpng writes them, are 2^13
_MOST_TEXTS = 16  # that may hold the orientation
MAX_TEXT = 2**20  # bytes after decompression: Pillow's own limit


def without_extras(data: bytes) -> tuple[bytes, bytes | None]:
    """Return (the PNG without chunks that do not change its look, its ICC profile or None).

    Damage other than in the names and lengths of chunks is left for Pillow to refuse.

    Raises:
        TooCostlyError: more than MAX_CHUNKS chunks.
    """
    parts, profile, profiles, texts, at = [data[:8]], None, 0, 0, len(_START)
    for number in itertools.count():
        if at + 12 > len(data):
            break
        if number == MAX_CHUNKS:
            raise TooCostlyError(f"PNG of more than {MAX_CHUNKS:,} chunks")
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data):
            break
        body = data[at + 8 : end - 4] if kind in _TEXTS or kind == b"iCCP" else b""
        if kind == b"iCCP":
            if not profiles:  # the first counts
                profile = _unpacked(body.partition(b"\0")[2], MAX_PROFILE)
            profiles += 1
        elif kind in _TEXTS and body.startswith(_ORIENTATION):
            texts += 1
            if texts <= _MOST_TEXTS and _fits(kind, body):
                parts.append(data[at:end])
        elif not kind[:1].islower() or kind in _KEPT:
            parts.append(data[at:end])
        at = end
        if kind == b"IEND":
            return b"".join(parts), profile
    return b"".join([*parts, data[at:]]), profile


def _fits(kind: bytes, body: bytes) -> bool:
    """Return whether a text is small enough to be read."""
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
