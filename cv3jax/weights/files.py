"""Read tensors of other programs' files one at a time: safetensors, and PyTorch's .pt without code.

Safetensors may be in shards. Opening a file reads only names, shapes and dtypes.
"""

from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from cv3jax.checkpoints.streaming import Leaf
from cv3jax.weights.torch_file import open_torch
from data_pipeline.io.bounded_json import Limits, load_json
from data_pipeline.io.errors import InputError, first_line
from data_pipeline.io.regular_files import open_regular
from data_pipeline.io.safetensors_header import check_header

Tensors = dict[str, Leaf]  # torch name → tensor, in torch's layout

SAT_FILE = "mp_rank_00_model_states.pt"
TORCH = (".pt", ".pth", ".bin", ".ckpt")
# Hugging Face's names for the single file of a folder, in the order in which they are tried
_SINGLE = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
_INDEX = Limits(bytes=2**24, values=10**6)
_DTYPES = {
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def open_tensors(path: Path, flag: str) -> tuple[Tensors, Path]:
    """Return (the tensors at `path`, the file that holds them).

    path: a .safetensors or .pt file, a SAT folder, or a Hugging Face folder. flag: the flag that
    named it, for messages.

    Raises:
        InputError: there is no such file, it is damaged, or it is a .pt that carries code.
    """
    if not path.exists():
        raise InputError(f"{flag} {path}: there is no such file or folder")
    file = _file_of(path, flag) if path.is_dir() else path
    if file.name.endswith(".index.json"):
        return _open_shards(file), file
    if file.suffix == ".safetensors":
        return _open_safetensors(file), file
    if file.suffix in TORCH:
        return open_torch(file), file
    raise InputError(
        f"{flag} {path}: give a .safetensors file, a {' or '.join(TORCH)} file of PyTorch, or a"
        " folder that holds one"
    )


def files_of(path: Path, flag: str) -> list[Path]:
    """Return the files that `open_tensors` opens at `path`. Raises InputError as it does."""
    if not path.exists():
        raise InputError(f"{flag} {path}: there is no such file or folder")
    file = _file_of(path, flag) if path.is_dir() else path
    if not file.name.endswith(".index.json"):
        return [file]
    return [file, *(file.parent / name for name in sorted(set(_read_index(file).values())))]


def _file_of(folder: Path, flag: str) -> Path:
    """Return the file of a folder that holds or lists its tensors."""
    if (folder / "latest").is_file():
        return _sat_file(folder)
    if indices := [
        folder / f"{name}.index.json"
        for name in _SINGLE
        if (folder / f"{name}.index.json").exists()
    ]:
        return indices[0]
    if singles := [folder / name for name in _SINGLE if (folder / name).exists()]:
        return singles[0]
    if numbered := [place for place in folder.glob(f"*/{SAT_FILE}") if place.parent.name.isdigit()]:
        raise InputError(
            f"{flag} {folder} has no `latest`, the file that says which of its steps to take; give"
            f" {numbered[0]} itself"
        )
    if (folder / "transformer" / "latest").is_file():
        raise InputError(
            f"{flag} {folder}: its weights are one folder below; give {folder / 'transformer'}"
        )
    raise InputError(
        f"{flag} {folder} holds neither the `latest` of a SAT checkpoint nor"
        f" {' or '.join(_SINGLE[:2])}; give a folder with one of these, or the file itself"
    )


def _sat_file(folder: Path) -> Path:
    with open_regular(folder / "latest") as file:
        step = file.read(64).decode(errors="replace").strip()
    if not step.isascii() or not step.replace("_", "").isalnum():
        raise InputError(
            f"{folder / 'latest'} holds {step[:40]!r}, which is not the name of a folder; it must"
            " hold the name of a folder beside it, such as 1"
        )
    file = folder / step / SAT_FILE
    if not file.is_file():
        raise InputError(
            f"{folder / 'latest'} says {step}, but there is no file {file}; get that file, or"
            " correct `latest`"
        )
    if others := sorted(
        path.name for path in file.parent.glob("mp_rank_*_model_states.pt") if path != file
    ):
        raise InputError(
            f"{file.parent} is split over {1 + len(others)} model-parallel ranks ({others[-1]});"
            " merge them into one with SAT"
        )
    return file


def _open_safetensors(path: Path) -> Tensors:
    try:
        check_header(path)
        # with mmap, what was read would count as memory of this process
        file = safe_open(path, framework="np", backend="pread")
        names = file.keys()
        slices = [file.get_slice(name) for name in names]
        headers = {
            name: (tuple(part.get_shape()), part.get_dtype())
            for name, part in zip(names, slices, strict=True)
        }
    except (SafetensorError, OSError, ValueError) as e:
        raise InputError(
            f"{path} is damaged or not a safetensors file:"
            f" {getattr(e, 'strerror', None) or first_line(e)}; get it again"
        ) from e

    def read(name: str) -> np.ndarray:
        try:
            return file.get_tensor(name)
        except (SafetensorError, OSError) as e:
            raise InputError(
                f"{path} is damaged: {name} cannot be read ({first_line(e)}); get it again"
            ) from e

    types = {name: np.dtype(_DTYPES.get(kind, np.void)) for name, (_, kind) in headers.items()}
    return {
        name: Leaf(shape, types[name], lambda name=name: read(name))
        for name, (shape, _) in headers.items()
    }


def _read_index(index: Path) -> dict[str, str]:
    """Return {tensor: the name of its file beside the index}. Raises InputError."""
    try:
        names = load_json(index, _INDEX)["weight_map"]
        if strange := [file for file in names.values() if not isinstance(file, str)]:
            raise ValueError(f"{strange[0]!r} is not a file name")
        files = set(names.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{index} is damaged or not an index of shards: {first_line(e)}") from e
    if outside := sorted(
        file for file in files if Path(file).name != file or not file.endswith(".safetensors")
    ):
        raise InputError(
            f"{index} names {outside[0]!r}, which is not a .safetensors file beside it; get the"
            " index again"
        )
    if missing := sorted(file for file in files if not (index.parent / file).is_file()):
        raise InputError(
            f"{index} names files that are not there ({len(missing)} in all):"
            f" {', '.join(missing[:5])}; put them beside it"
        )
    return names


def _open_shards(index: Path) -> Tensors:
    """Return the tensors of several files, by the index that lists their names."""
    names = _read_index(index)
    files = set(names.values())
    shards = {file: _open_safetensors(index.parent / file) for file in sorted(files)}
    if lost := sorted(name for name, file in names.items() if name not in shards[file]):
        raise InputError(
            f"{index} says {lost[0]} is in {names[lost[0]]}, but it is not ({len(lost)} in all);"
            " get the files again"
        )
    if extra := sorted(
        name for file, shard in shards.items() for name in shard if names.get(name) != file
    ):
        raise InputError(
            f"{index} does not list {extra[0]}, which a file beside it holds ({len(extra)} in all);"
            " get the files again"
        )
    return {name: shards[file][name] for name, file in names.items()}
