"""Looking at a JPEG 2000's headers before its decoder does, which allocates for every code block.

A header of a hundred bytes may divide an image into sixteen million blocks of 4×4 pixels.
"""

import math
import re
import struct
from collections.abc import Iterator

from data_pipeline.images.bounds import TooCostlyError

MAX_BLOCKS = 2**19  # code blocks and precincts; 64 megapixels in blocks of 32×32 have 2^18
_COMPONENTS = 4
_START = re.compile(rb"\xff\x4f\xff\x51")
_STARTS = 8  # places in a file where a codestream may begin
_COD, _COC, _SOT, _SOD, _END = 0x52, 0x53, 0x90, 0x93, 0xD9
_PARTS = 2**16  # parts of tiles


def check(data: bytes, max_pixels: int) -> None:
    """Raise TooCostlyError where a codestream in the file asks for too much memory.

    A codestream that ends within its headers is left for the decoder to refuse.
    """
    for number, found in enumerate(_START.finditer(data)):
        if number == _STARTS:
            raise TooCostlyError(f"JPEG 2000 with more than {_STARTS} codestreams")
        try:
            _check(data, found.start() + 2, max_pixels)
        except (IndexError, struct.error):
            continue


def _check(data: bytes, at: int, max_pixels: int) -> None:
    """Check the codestream whose sizes stand at the marker at `at`. Raises also IndexError."""
    _, x1, y1, x0, y0, wide, high = struct.unpack_from(">H6I", data, at + 4)
    (components,) = struct.unpack_from(">H", data, at + 38)
    pixels = max(x1 - x0, 0) * max(y1 - y0, 0)
    if pixels * components > _COMPONENTS * max_pixels:
        said = f"JPEG 2000 of {components:,} components of {x1 - x0}x{y1 - y0} pixels"
        raise TooCostlyError(f"{said}; the limit is {_COMPONENTS} of {max_pixels:,}")
    tiles = math.ceil(x1 / max(wide, 1)) * math.ceil(y1 / max(high, 1))
    for levels, sizes in _codings(data, at, 1 if components < 257 else 2):
        # each is its own in every tile, component and band
        least = tiles * components * (3 * levels + 1)
        count = least + 2 * pixels * components // 2 ** min(sizes)
        if count > MAX_BLOCKS:
            said = f"JPEG 2000 of some {count:,} code blocks"
            raise TooCostlyError(f"{said}; the limit is {MAX_BLOCKS:,}")


def _codings(data: bytes, at: int, component: int) -> Iterator[tuple[int, list[int]]]:
    """Yield (levels, the base-2 logarithms of the pixels of a code block and of each precinct).

    component: the bytes of a component's number.
    """
    part_end, parts = 0, 0
    while parts < _PARTS:
        marker = data[at + 1]
        if marker == _END or data[at] != 0xFF:
            return
        if marker == _SOD:
            at = part_end
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker == _SOT:
            (size,) = struct.unpack_from(">I", data, at + 6)
            part_end, parts = at + max(size, 14) if size else len(data), parts + 1
        elif marker in (_COD, _COC):
            style = at + 4 + (component if marker == _COC else 0)
            fields = style + (5 if marker == _COD else 1)
            levels = data[fields]
            sizes = [(data[fields + 1] & 15) + (data[fields + 2] & 15) + 4]
            if data[style] & 1:
                sizes += [sum(divmod(value, 16)) for value in data[fields + 5 : at + 2 + length]]
            yield levels, sizes
        at += 2 + length
