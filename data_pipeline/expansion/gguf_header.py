"""The header of a GGUF file, which is walked within limits before a library reads it.

The format has a count before each list and each text. The library `gguf` believes them: past the
end of the file it reads empty values, as many as a count says.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import os
import struct
from pathlib import Path

from data_pipeline.io.regular_files import open_regular

MOST_BYTES = 2**28  # of a header; most are tokens
_SETTINGS = 2**12
_TENSORS = 2**15
_NAME = 2**16  # bytes of a name
_ELEMENTS = 2**22  # of all lists; a tokenizer of 256,000 tokens has three lists of that many
_SIDES = 8
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # by type
_TEXT, _LIST = 8, 9


class _Header:
    """A position in the bytes of a header."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at, self.left = data, 4, _ELEMENTS
        self.end = min(len(data), MOST_BYTES)

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > self.end:
            raise ValueError("its header is longer than the file, or than a header may be")

    def number(self, form: str, most: int, what: str) -> int:
        before = self.at
        self.skip(struct.calcsize(form))
        (found,) = struct.unpack_from(form, self.data, before)
        if found > most:
            raise ValueError(f"its header has {found:,} {what}, and may have {most:,}")
        return found

    def text(self, most: int = MOST_BYTES) -> None:
        self.skip(self.number("<Q", most, "bytes in a text"))

    def value(self, kind: int) -> None:
        if kind == _LIST:
            kind, count = (
                self.number("<I", 2**32, ""),
                self.number("<Q", self.left, "values in lists"),
            )
            self.left -= count
            if kind not in _SIZES and kind != _TEXT:
                raise ValueError(f"its header has a list of values of the type {kind}")
        else:
            count = 1
        if kind == _TEXT:
            for _ in range(count):
                self.text()
        elif kind in _SIZES:
            self.skip(count * _SIZES[kind])
        else:
            raise ValueError(f"its header has a value of the type {kind}, which does not exist")


def check_header(path: Path) -> None:
    """Raise ValueError where a file is not GGUF, or its header is longer than those of models.

    Raises OSError where the file cannot be opened or is no regular file.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size < 24 or file.read(4) != b"GGUF":
            raise ValueError("it does not begin as GGUF files do")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _walk(_Header(data))


def _walk(header: _Header) -> None:
    header.number("<I", 3, "as its version")
    tensors = header.number("<Q", _TENSORS, "tensors")
    for _ in range(header.number("<Q", _SETTINGS, "settings")):
        header.text(_NAME)
        header.value(header.number("<I", 2**32, ""))
    for _ in range(tensors):
        header.text(_NAME)
        sides = header.number("<I", _SIDES, "sides of a tensor")
        header.skip(8 * sides + 4 + 8)  # the sides, the type, the place
