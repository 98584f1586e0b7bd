"""Our own format: sgm's names with their dots, and the scale and the stage in so many words.

The keys of a layer are NAME.lora_down, .lora_up, .lora_alpha and, with DoRA, .lora_magnitude. The
header has `cv3jax.format`, and what is known of `cv3jax.stage`, `cv3jax.rslora` and `cv3jax.unet`.
"""

import numpy as np

from cv3jax.adapters import keys
from cv3jax.adapters.adapter import SGM, Adapter
from cv3jax.adapters.naming import naming_of
from cv3jax.adapters.tensors import File
from data_pipeline.io.errors import InputError

FORMAT, VERSION = "cv3jax.format", "lora 1"
RSLORA = "cv3jax.rslora"
NAMES = {kind: f".lora_{kind}" for kind in (keys.DOWN, keys.UP, keys.ALPHA, keys.MAGNITUDE)}


def knows(file: File) -> bool:
    """Return whether a file has this format."""
    return FORMAT in file.metadata or any(name.endswith(NAMES[keys.UP]) for name in file.tensors)


def split(name: str) -> keys.Key | None:
    """Return what a key means, or None."""
    module, _, kind = name.rpartition(".lora_")
    known = f".lora_{kind}" in NAMES.values() and module and naming_of(module) == SGM
    return keys.Key(module, kind) if known else None


def read(file: File, *, text_encoder: bool = True) -> Adapter:
    """Return the adapter of a file. Raises InputError."""
    version = file.metadata.get(FORMAT, VERSION)
    if version != VERSION:
        raise InputError(
            f"{file.where} has the format {version[:40]!r}, and {VERSION!r} is read; use the"
            " version of cv3jax that wrote it"
        )
    rslora = file.metadata.get(RSLORA, "false")
    if rslora not in ("true", "false"):
        raise InputError(f"{file.where}: {RSLORA} in its header is {rslora[:40]!r}: true or false")
    parts = keys.gather(file, split, text_encoder=text_encoder)
    if bare := [module for module, found in parts.items() if keys.ALPHA not in found]:
        raise InputError(f"{file.where}: {bare[0]} has no lora_alpha")
    return keys.adapter_of(file, parts, rslora=rslora == "true")


def write(adapter: Adapter) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return (tensors, texts of the header) of an adapter with sgm's names."""
    metadata = {**keys.header(adapter), FORMAT: VERSION}
    return keys.of_modules(adapter, NAMES), {**metadata, RSLORA: str(adapter.rslora).lower()}
