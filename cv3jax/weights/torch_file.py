"""Read and write PyTorch's .pt files.

Reading one never runs its code: only tensors and plain values are unpickled.
"""

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cv3jax.checkpoints.streaming import Leaf
from cv3jax.weights.pickle_cost import check_cost
from data_pipeline.io import extras
from data_pipeline.io.errors import InputError, first_line
from data_pipeline.io.progress import bar
from data_pipeline.io.regular_files import open_regular

_PICKLE_BYTES = 2**22  # names and shapes of a few thousand tensors are a few hundred KB
_MEMBERS = 2**16  # a tensor is one
_PIECE = 2**22  # bytes
_LISTS = ("module", "state_dict")  # keys under which SAT and Lightning keep the tensors
# what a trainer's checkpoint holds beside tensors: its arguments and the states of random
# generators
_BESIDE = (
    "argparse.Namespace",
    "numpy.ndarray",
    "numpy.dtype",
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
)


class _Passed:
    """Stands for those objects: takes their arguments and does nothing.

    NumPy's own classes could be made to read any memory.
    """

    def __init__(self, *args: Any):
        del args

    def __setstate__(self, state: Any) -> None:
        del state


def open_torch(path: Path) -> dict[str, Leaf]:
    """Return the tensors of a .pt file: those under `module` or `state_dict`, else all.

    The file stays mapped, unread.

    Raises:
        InputError: it is not a zip file of torch.save, is damaged, carries code or has no tensors;
            or PyTorch is missing.
    """
    _check_zip(path)
    torch = extras.load("torch", f"reading {path}")
    try:
        with torch.serialization.safe_globals([(_Passed, name) for name in _BESIDE]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as e:
        if found := re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(e)):
            raise InputError(
                f"{path} is refused, and nothing of it was run: it calls {found[1]}, and a"
                " checkpoint may hold tensors only"
            ) from e
        what = str(e).partition("WeightsUnpickler error:")[2].strip().splitlines() or [
            "its pickle does not hold tensors"
        ]
        raise InputError(
            f"{path} is refused, and nothing of it was run: it is not a checkpoint of tensors"
            f" ({what[0][:160]})"
        ) from e
    # whatever the parser of a damaged file raises is about this file
    except Exception as e:
        raise InputError(f"{path} is damaged: {first_line(e)}; get it again") from e
    tensors = next(
        (
            content[name]
            for name in _LISTS
            if isinstance(content, dict) and isinstance(content.get(name), dict)
        ),
        content,
    )
    if not isinstance(tensors, dict) or not any(
        isinstance(value, torch.Tensor) for value in tensors.values()
    ):
        raise InputError(
            f"{path} holds no tensors, neither under `module`, as a SAT checkpoint does, nor at its"
            f" top level{_elsewhere(torch, tensors)}"
        )
    return {str(name): _leaf(torch, path, str(name), value) for name, value in tensors.items()}


def _elsewhere(torch: Any, content: Any) -> str:
    """Return the other names under which a checkpoint keeps tensors, for a message."""
    found = [
        repr(str(name)[:40])
        for name, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(value, dict) and any(isinstance(one, torch.Tensor) for one in value.values())
    ]
    return f", but under {', '.join(found[:8])}; save one of these by itself" if found else ""


def save_torch(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write {"module": tensors}, as SAT does, without copying them.

    Raises OSError when it cannot be written.
    """
    torch = extras.load("torch", f"writing {path}")
    try:
        torch.save(
            {"module": {name: _to_torch(torch, value) for name, value in tensors.items()}}, path
        )
    except RuntimeError as e:  # its zip writer raises it on a full disk
        raise OSError(
            None,
            f"could not be written ({first_line(e)}); free some disk space and run the same command"
            " again",
            str(path),
        ) from e


def _check_zip(path: Path) -> None:
    """Raise InputError on a zip file that torch.save did not write, or that is damaged.

    torch.save writes stored, not compressed, members. Anything else is damaged, old, or a zip bomb.
    """
    try:
        with open_regular(path) as opened, zipfile.ZipFile(opened) as file:
            _check_members(path, file.infolist(), os.fstat(opened.fileno()).st_size)
            for pickled in (m for m in file.infolist() if m.filename.endswith(".pkl")):
                check_cost(file.read(pickled))
            _check_sums(path, file)
    # the last three: a later version of the format, a flag of encryption, a name that no codec has
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        LookupError,
    ) as e:
        raise InputError(
            f"{path} is damaged or was not written by torch.save of PyTorch 1.6 or newer:"
            f" {getattr(e, 'strerror', None) or first_line(e)}; get it again"
        ) from e


def _check_sums(path: Path, file: zipfile.ZipFile) -> None:
    """Read every member, which raises BadZipFile where one is not of its CRC-32."""
    members = file.infolist()
    with bar(sum(member.file_size for member in members), f"checking {path.name}", "B") as shown:
        for member in members:
            with file.open(member) as content:
                while piece := content.read(_PIECE):
                    shown.update(len(piece))


def _check_members(path: Path, members: list[zipfile.ZipInfo], size: int) -> None:
    """Raise InputError unless the members are as torch.save writes them. size: of the file."""
    if packed := [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]:
        raise InputError(f"{path} was not written by torch.save: {packed[0]} in it is compressed")
    if len(members) > _MEMBERS or sum(member.file_size for member in members) > size:
        raise InputError(
            f"{path} was not written by torch.save: it has {len(members):,} members, which overlap"
            " or are more than a model has"
        )
    if large := [m for m in members if m.filename.endswith(".pkl") and m.file_size > _PICKLE_BYTES]:
        raise InputError(
            f"{path}: {large[0].filename} has {large[0].file_size:,} bytes, more than names and"
            " shapes take"
        )


def _leaf(torch: Any, path: Path, name: str, value: Any) -> Leaf:
    """Return a tensor as a leaf; one that is not plain numbers has type void and is never read."""
    plain = (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and not value.is_nested
        and value.device.type == "cpu"
    )
    if not plain or value.is_quantized or value.is_complex():
        return Leaf((), np.dtype(np.void), lambda: np.empty((), np.void))
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise InputError(
            f"{path}: {name} has the shape {list(value.shape)}, for which the file holds too few"
            " bytes"
        )
    kind = str(value.dtype).removeprefix("torch.")
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else getattr(np, kind, np.void)
    return Leaf(tuple(value.shape), np.dtype(dtype), lambda: _to_numpy(torch, value))


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    tensor = tensor.detach().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _to_torch(torch: Any, value: np.ndarray) -> Any:
    if value.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value)
