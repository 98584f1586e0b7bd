"""Read and write the tensors of an adapter's file with the texts of its header: safetensors only.

What a pickle would do when it is read is not known before, so none is read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from data_pipeline.io.errors import InputError, first_line, machine_error, naming
from data_pipeline.io.files import replacing
from data_pipeline.io.regular_files import open_regular
from data_pipeline.io.safetensors_header import check_header

MOST_BYTES = 2**34  # of a file; an adapter of rank 128 for 3 billion parameters has 2**30
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_BEGINNINGS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class File(NamedTuple):
    """What a file holds.

    Attributes:
        where: its flag and path, for messages.
        tensors: by name.
        metadata: the texts of its header.
        config: the adapter_config.json beside it, or None.
    """

    where: str
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    config: dict | None = None


def read_file(path: Path, where: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return (tensors, texts of the header) of a safetensors file.

    Raises:
        InputError: it is missing, damaged, too large or no safetensors file.
    """
    try:
        with open_regular(path, MOST_BYTES) as file:
            begins = file.read(4)
        if path.suffix in _PICKLES or begins.startswith(_BEGINNINGS):
            raise InputError(
                f"{where} is a pickle, which may run code when it is read; give the adapter as"
                " .safetensors"
            )
        check_header(path)
        with safe_open(path, framework="np", backend="pread") as opened:
            metadata = opened.metadata() or {}
            names = opened.keys()
            tensors = {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise (
            machine_error(e, path)
            or InputError(
                f"{where} is damaged or not a safetensors file:"
                f" {getattr(e, 'strerror', None) or first_line(e)}; get it again"
            )
        ) from e
    return tensors, dict(metadata)


def write_file(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all. Raises OSError."""
    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    # the library makes a scalar of one axis of what has none
    arrays = {name: value.reshape(tensors[name].shape) for name, value in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        try:
            temporary.touch()
            mode = temporary.stat().st_mode  # of ordinary files, which save_file's are not
            with naming(path):
                save_file(arrays, temporary, metadata=dict(metadata))
            temporary.chmod(mode)
        except SafetensorError as e:
            raise OSError(None, f"could not be written ({first_line(e)})", str(path)) from e
