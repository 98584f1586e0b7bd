"""Read an adapter of any format, found by its keys, and write one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cv3jax.adapters import diffusers, format_names, kohya, native, peft
from cv3jax.adapters.adapter import DIFFUSERS, SGM, Adapter, check
from cv3jax.adapters.format_names import CONFIG, FILES, OURS, SINGLE, WEIGHTS
from cv3jax.adapters.lora_config import LIMITS
from cv3jax.adapters.naming import Sizes, named
from cv3jax.adapters.tensors import File, read_file, write_file
from data_pipeline.io.bounded_json import ParseError, load_json
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import write_json
from data_pipeline.io.staging import appearing

FORMATS: Mapping[str, Any] = dict(
    zip(format_names.FORMATS, (native, kohya, peft, diffusers), strict=True)
)
_BEGUN = ("checkpoints", "config.yaml", "pictures/pictures.json", "features")  # of one without it


def read(path: Path, where: str | None = None, *, text_encoder: bool = True) -> Adapter:
    """Return the adapter at `path`: a file, a folder of PEFT or diffusers, or a workdir.

    Args:
        path: the file or folder.
        where: what messages call it; by default its path.
        text_encoder: whether a text encoder's tensors are an error; otherwise they are left out.

    Raises:
        InputError: it is missing, damaged or of no known format, a tensor has no place, or it
            changes nothing.
    """
    return read_as(path, where, text_encoder=text_encoder)[1]


def read_as(
    path: Path, where: str | None = None, *, text_encoder: bool = True
) -> tuple[str, Adapter]:
    """Return (the name of its format, the adapter) as `read` does."""
    where = str(path) if where is None else where
    if not path.exists():
        raise InputError(f"{where}: there is no such file or folder")
    place = _file_in(path, where) if path.is_dir() else path
    tensors, metadata = read_file(place, where)
    if not tensors:
        raise InputError(f"{where} has no layer, so it would change nothing")
    config = _config(place.parent / CONFIG, where) if place.name == WEIGHTS else None
    file = File(where, tensors, metadata, config)
    for name, format in FORMATS.items():
        if format.knows(file):
            return name, format.read(file, text_encoder=text_encoder)
    shown = ", ".join(sorted(tensors)[:3])
    raise InputError(
        f"{where} is no adapter that is known (its tensors begin with {shown[:300]}); give a LoRA"
        f" of {', '.join(FORMATS)}"
    )


def holds(folder: Path) -> bool:
    """Return whether a folder holds an adapter."""
    return any((folder / name).is_file() for name in FILES)


def _file_in(folder: Path, where: str) -> Path:
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    if pickles := sorted(folder.glob("*.bin")):
        raise InputError(
            f"{where} holds {pickles[0].name}, a pickle, which may run code when it is read; give"
            f" it as {WEIGHTS}"
        )
    if any((folder / name).exists() for name in _BEGUN):
        raise InputError(
            f"{where} is a run that has no adapter yet: a fine-tune writes {OURS[1]} with every"
            " checkpoint; run its command until the first one, or give another workdir"
        )
    raise InputError(f"{where} holds neither {' nor '.join(SINGLE)}; give the file itself")


def _config(path: Path, where: str) -> dict | None:
    if not path.exists():
        return None
    try:
        return load_json(path, LIMITS)
    except (OSError, ParseError) as e:
        raise InputError(
            f"{where}: {path.name} cannot be read: {getattr(e, 'strerror', None) or e}"
        ) from e


def write(path: Path, adapter: Adapter, format: str, sizes: Sizes | None = None) -> None:
    """Write an adapter in a format: a folder for peft, a file for others.

    sizes: of the UNet, for diffusers' names; by default those of the adapter's header.

    Raises:
        InputError: the format cannot hold it, a name is not of such a UNet, or the folder exists.
        OSError: it could not be written; nothing is left.
    """
    where = f"--to {format}"
    check(adapter, where)
    theirs = named(adapter, DIFFUSERS if format in ("diffusers", "peft") else SGM, sizes, where)
    if format == "peft":
        tensors, metadata, config = peft.write(theirs, where)
        with appearing(path) as partial:
            write_file(partial / WEIGHTS, tensors, metadata)
            write_json(partial / CONFIG, config)
        return
    more = (where,) if format == "diffusers" else ()
    tensors, metadata = FORMATS[format].write(theirs, *more)
    write_file(path, tensors, metadata)
