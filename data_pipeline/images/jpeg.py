"""Looking at a JPEG's segments before Pillow does, which reads all EXIF and every scan."""

import re
from collections.abc import Iterator

from data_pipeline.images.bounds import MAX_EXIF, TooCostlyError, exif_cost

MAX_SCANS = 100  # programs write a dozen; each goes over all pixels again
_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
_BARE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # of the next segment, behind a scan's data


def checked(data: bytes) -> bytes:
    """Return a JPEG that Pillow can open, without EXIF that would cost too much memory.

    Raises:
        TooCostlyError: more than MAX_SCANS scans.
    """
    # a scan's own bytes never have this pair, and other segments hardly ever
    if data.count(bytes((0xFF, _SCAN))) > MAX_SCANS:
        scans = sum(marker == _SCAN for marker, _, _ in _segments(data))
        if scans > MAX_SCANS:
            raise TooCostlyError(f"JPEG of {scans:,} scans; the limit is {MAX_SCANS}")
    exif = []
    for marker, start, end in _segments(data):
        if marker == _SCAN:
            break
        if marker == _APP1 and data[start + 4 : start + 10] == b"Exif\0\0":
            exif.append((start, end))
    # Pillow joins them to one block
    if not exif or exif_cost(b"".join(data[start + 10 : end] for start, end in exif)) <= MAX_EXIF:
        return data
    ends = [0, *(end for _, end in exif)]
    starts = [*(start for start, _ in exif), len(data)]
    return b"".join(data[a:b] for a, b in zip(ends, starts, strict=True))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of the segments up to the end of the image or of the data.

    The data of a scan are not part of its segment.
    """
    at = 2
    while found := _MARKER.search(data, at):
        start, marker = found.start(), data[found.start() + 1]
        if marker == _END:
            return
        length = 0 if marker in _BARE else int.from_bytes(data[start + 2 : start + 4], "big")
        at = start + 2 + length
        yield marker, start, at
