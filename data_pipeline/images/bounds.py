"""The time and memory that the decoding of one image may take, beyond those of its pixels."""

import io
import struct
import threading
import time
from collections.abc import Iterator

from data_pipeline.io.errors import InputError

MAX_SIDE = 65_535  # pixels: a JPEG has no more
MAX_SECONDS = 30  # of one core, for the pixels: those of 64 megapixels take two
MAX_EXIF = 2**26  # bytes of the values of all tags: many tags may claim the same bytes
MAX_PROFILE = 2**23  # bytes of an ICC profile; a printer's has two million
_ORIENTATION = 0x0112
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_ENDS = {b"II*\0": "<", b"MM\0*": ">"}  # how a block of EXIF begins → its byte order


class TooCostlyError(InputError):
    """Decoding an image would take, or took, more time or memory than its pixels justify."""


class Watched(io.BytesIO):
    """The bytes of an image, whose reader may use MAX_SECONDS of its core from `start` on.

    The time is that of the thread alone, so it does not depend on what else the machine does.

    Raises:
        TooCostlyError: in `read`, where the time is over.
    """

    def __init__(self, data: bytes):
        """Start the time."""
        super().__init__(data)
        self.start()

    def start(self) -> None:
        """Start the time again."""
        self._thread, self._since = threading.get_ident(), time.thread_time()

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes."""
        if threading.get_ident() != self._thread:
            self.start()
        elif time.thread_time() - self._since > MAX_SECONDS:
            raise TooCostlyError(f"image that takes more than {MAX_SECONDS} s to decode")
        return super().read(size)


def exif_cost(block: bytes) -> int:
    """Return how many bytes a reader of all tags of an EXIF block would copy."""
    return sum(min(size, len(block)) for _, _, size in _tags(_tiff(block)) if size > 4)


def orientation_alone(block: bytes) -> bytes:
    """Return an EXIF block with the tag of the orientation alone; empty where it is not in there.

    Of several such tags the last counts, as it does for Pillow.
    """
    tiff, found = _tiff(block), b""
    for tag, at, size in _tags(tiff):
        if tag == _ORIENTATION and size <= 64:
            order = _ENDS[tiff[:4]]
            entry, value = tiff[at : at + 12], b""
            if size > 4:
                (place,) = struct.unpack(f"{order}I", entry[8:])
                value = tiff[place : place + size]
                entry = entry[:8] + struct.pack(f"{order}I", 26)  # behind this table
            head = tiff[:4] + struct.pack(f"{order}IH", 8, 1)
            found = head + entry + bytes(4) + value
    return found


def _tiff(block: bytes) -> bytes:
    """Return an EXIF block without what may stand before it."""
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    return block


def _tags(tiff: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (tag, its place, bytes of its value) of the first table of an EXIF block."""
    if not (order := _ENDS.get(tiff[:4])) or len(tiff) < 8:
        return
    (table,) = struct.unpack_from(f"{order}I", tiff, 4)
    if table + 2 > len(tiff):
        return
    (count,) = struct.unpack_from(f"{order}H", tiff, table)
    for at in range(table + 2, min(table + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", tiff, at)
        if kind in _SIZES:
            yield tag, at, number * _SIZES[kind]
