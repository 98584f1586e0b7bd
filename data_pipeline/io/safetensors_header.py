"""The header of a safetensors file, whose size is checked before a library parses it."""

import os
import struct
from pathlib import Path

from data_pipeline.io.regular_files import open_regular

MOST_BYTES = 2**24
MOST_TENSORS = 2**15  # a text encoder of 11 billion parameters has 219, a UNet of 3 billion 2,000
_VALUES = 2**19  # commas: the fields of all tensors, their sides, and the metadata


def check_header(path: Path) -> None:
    """Raise ValueError where a file's header has more bytes, tensors or values than models have.

    Nothing is parsed: the structural characters are counted, which names and metadata may only
    increase. Raises OSError where the file cannot be opened or is no regular file.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(9)
        if len(start) < 8:
            raise ValueError(f"it has {size} bytes, and the header is missing")
        if len(start) == 9 and not start.endswith(b"{"):
            raise ValueError("it does not begin with a header as safetensors files do")
        (length,) = struct.unpack("<Q", start[:8])
        if length > size - 8:
            raise ValueError(f"its header has {length:,} bytes, more than the file")
        if length > MOST_BYTES:
            raise ValueError(f"its header has {length:,} bytes, and may have {MOST_BYTES:,}")
        header = b"{" + file.read(length - 1)
    if header.count(b"{") > MOST_TENSORS + 2:  # its own, and that of the metadata
        raise ValueError(f"its header names more than {MOST_TENSORS:,} tensors")
    if header.count(b",") > _VALUES:
        raise ValueError(f"its header has more than {_VALUES:,} values")
