"""kohya's format: lora_unet_NAME.lora_down.weight, .lora_up.weight, .alpha and .dora_scale.

Its dots are underscores, and the names below `lora_unet_` are sgm's, as for SDXL. Some programs
write diffusers' names so; these are read too. A file without alpha has a scale of 1. The format
has no rsLoRA: alpha is written for the scale alpha / r, and the header keeps the alphas themselves.
"""

import json
import math

import numpy as np

from cv3jax.adapters import keys
from cv3jax.adapters.adapter import Adapter
from cv3jax.adapters.lora_config import LIMITS
from cv3jax.adapters.naming import with_dots
from cv3jax.adapters.tensors import File
from data_pipeline.io.bounded_json import ParseError, parse_json
from data_pipeline.io.errors import InputError

PREFIX = "lora_unet_"
RSLORA = "cv3jax.rslora"  # {key: alpha}, as JSON
ENDS = {
    keys.DOWN: ".lora_down.weight",
    keys.UP: ".lora_up.weight",
    keys.ALPHA: ".alpha",
    keys.MAGNITUDE: ".dora_scale",
}


def knows(file: File) -> bool:
    """Return whether a file has this format."""
    return any(name.startswith((PREFIX, "lora_te")) for name in file.tensors)


def split(name: str) -> keys.Key | None:
    """Return what a key means, or None."""
    if not name.startswith(PREFIX):
        return None
    for kind, end in ENDS.items():
        if name.endswith(end):
            module = with_dots(name[len(PREFIX) : -len(end)])
            return None if module is None else keys.Key(module, kind)
    return None


def read(file: File, *, text_encoder: bool = True) -> Adapter:
    """Return the adapter of a file. Raises InputError."""
    parts = keys.gather(file, split, text_encoder=text_encoder)
    if (text := file.metadata.get(RSLORA)) is None:
        return keys.adapter_of(file, parts)
    try:
        alphas = parse_json(text, LIMITS)
    except ParseError as e:
        raise InputError(f"{file.where}: {RSLORA} in its header is damaged: {e}") from e
    for module, found in parts.items():
        alpha = alphas.get(module) if isinstance(alphas, dict) else None
        rank = found[keys.DOWN].shape[0] if keys.DOWN in found and found[keys.DOWN].ndim else 0
        if type(alpha) not in (int, float) or keys.ALPHA not in found:
            raise InputError(f"{file.where}: {RSLORA} in its header has no alpha of {module}")
        given = float(found[keys.ALPHA].reshape(-1)[0])
        if not math.isclose(given, alpha * math.sqrt(rank), rel_tol=1e-2):
            raise InputError(
                f"{file.where}: the alpha of {module} is {given:g}, but {RSLORA} in its header"
                f" makes it {alpha * math.sqrt(rank):g}; remove {RSLORA} from the header"
            )
        found[keys.ALPHA] = np.asarray(float(alpha))
    return keys.adapter_of(file, parts, rslora=True)


def write(adapter: Adapter) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return (tensors, texts of the header) of an adapter."""
    tensors, metadata = {}, {"format": "pt", **keys.header(adapter)}
    for module, layer in adapter.layers.items():
        key = PREFIX + module.replace(".", "_")
        alpha = layer.alpha * math.sqrt(layer.rank) if adapter.rslora else layer.alpha
        tensors[key + ENDS[keys.DOWN]] = layer.down
        tensors[key + ENDS[keys.UP]] = layer.up
        tensors[key + ENDS[keys.ALPHA]] = keys.number(alpha)
        if layer.magnitude is not None:
            rows = (-1, *(1,) * (layer.up.ndim - 1))
            tensors[key + ENDS[keys.MAGNITUDE]] = layer.magnitude.reshape(rows)
    if adapter.rslora:
        alphas = {module: layer.alpha for module, layer in adapter.layers.items()}
        metadata[RSLORA] = json.dumps(alphas)
    return tensors, metadata
