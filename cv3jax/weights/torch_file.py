"""PyTorch's .pt files, in and out. Reading one never runs code of it: only tensors and plain values are unpickled."""

import argparse
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cv3jax.leaves import Leaf
from data_pipeline.errors import InputError

_PICKLE_BYTES = 2**27  # names and shapes of a few thousand tensors are a few hundred KB
_LISTS = ("module", "state_dict")  # under which SAT, and Lightning, keep the tensors


def import_torch(what: str) -> Any:
    """PyTorch. Raises InputError where it is not installed: `what` takes it."""
    try:
        import torch
    except ImportError as e:
        raise InputError(f"{what} takes PyTorch, which is not installed; `make setup-torch` (or pip install 'cv3jax[torch]') does") from e
    return torch


def open_torch(path: Path) -> dict[str, Leaf]:
    """The tensors of a .pt file: those under `module` or `state_dict` where it has one, else all. The file stays mapped, unread.

    Raises:
        InputError: not a zip file of torch.save, damaged, carrying code, or without tensors; or PyTorch is missing.
    """
    _check_zip(path)
    torch = import_torch(f"reading {path}")
    try:
        # what a trainer's checkpoint holds beside tensors: its arguments and the states of random generators
        with torch.serialization.safe_globals([argparse.Namespace, *_numpy_globals()]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as e:
        if found := re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(e)):
            raise InputError(f"{path} is refused, and nothing of it was run: it calls {found[1]}; a checkpoint holds tensors only") from e
        raise InputError(f"{path} is refused: it is no checkpoint of tensors ({_line(e)})") from e
    # whatever the parser of a damaged file raises is about this file
    except Exception as e:
        raise InputError(f"{path} is damaged: {_line(e)}; get it again") from e
    tensors = next((content[name] for name in _LISTS if isinstance(content, dict) and isinstance(content.get(name), dict)), content)
    if not isinstance(tensors, dict) or not any(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise InputError(f"{path} holds no tensors under `module`, as a SAT checkpoint does, nor by themselves")
    return {str(name): _leaf(path, str(name), value) for name, value in tensors.items() if isinstance(value, torch.Tensor)}


def save_torch(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write {"module": tensors}, as SAT does, without copying them."""
    torch = import_torch(f"writing {path}")
    torch.save({"module": {name: _to_torch(torch, value) for name, value in tensors.items()}}, path)


def _check_zip(path: Path) -> None:
    """torch.save writes stored, not compressed, members: what is not so is damaged, old, or a bomb."""
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as e:
        raise InputError(f"{path} is damaged or no checkpoint of torch.save (since 1.6): {_line(e)}; get it again") from e
    if packed := [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]:
        raise InputError(f"{path} is not of torch.save: {packed[0]} in it is compressed")
    if large := [m for m in members if m.filename.endswith(".pkl") and m.file_size > _PICKLE_BYTES]:
        raise InputError(f"{path}: {large[0].filename} has {large[0].file_size:,} bytes, more than names and shapes take")


def _leaf(path: Path, name: str, tensor: Any) -> Leaf:
    kind = str(tensor.dtype).removeprefix("torch.")
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else getattr(np, kind, None)
    if tensor.device.type != "cpu" or tensor.is_sparse or tensor.is_quantized or dtype is None:
        raise InputError(f"{path}: {name} is a {tensor.layout} tensor of {tensor.dtype} on {tensor.device}; give dense ones of floats")
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise InputError(f"{path} is damaged: {name} has the shape {list(tensor.shape)}, for which the file holds too few bytes")
    return Leaf(tuple(tensor.shape), np.dtype(dtype), lambda: _to_numpy(tensor))


def _to_numpy(tensor: Any) -> np.ndarray:
    if tensor.element_size() == 2 and str(tensor.dtype) == "torch.bfloat16":
        import torch

        return tensor.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


def _to_torch(torch: Any, value: np.ndarray) -> Any:
    if value.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value)


def _numpy_globals() -> list:
    """What a pickled NumPy array or number of any kind consists of."""
    kinds = {type(np.dtype(kind)) for kind in ("u1", "u4", "u8", "i4", "i8", "f4", "f8")}
    core = np._core.multiarray
    return [np.ndarray, np.dtype, core._reconstruct, core.scalar, *kinds,
            (core._reconstruct, "numpy.core.multiarray._reconstruct"), (core.scalar, "numpy.core.multiarray.scalar")]  # fmt: skip


def _line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:200]
