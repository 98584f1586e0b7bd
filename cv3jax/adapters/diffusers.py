"""diffusers' format: unet.NAME.lora_A.weight and .lora_B.weight, in one safetensors file.

Older files have .lora.down.weight, .lora_linear_layer.down.weight or .processor.to_q_lora.down.
weight, and alphas as tensors. Newer ones have a LoraConfig as JSON in the header. Without either
the scale is 1, as diffusers reads them.
"""

import json
import re

import numpy as np

from cv3jax.adapters import keys
from cv3jax.adapters.adapter import Adapter
from cv3jax.adapters.lora_config import LIMITS, LoraConfig, config_of
from cv3jax.adapters.tensors import File
from data_pipeline.io.bounded_json import ParseError, parse_json
from data_pipeline.io.errors import InputError

PREFIX, CONFIG = "unet.", "lora_adapter_metadata"
ENDS = {
    keys.DOWN: (".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight"),
    keys.UP: (".lora_B.weight", ".lora.up.weight", ".lora_linear_layer.up.weight"),
    keys.ALPHA: (".alpha",),
    keys.MAGNITUDE: (".lora_magnitude_vector", ".lora_magnitude_vector.weight"),
}
_OLD = re.compile(r"(?:\.processor)?\.(to_[qkv]|to_out)_lora\.(down|up)\.weight$")


def knows(file: File) -> bool:
    """Return whether a file has this format."""
    return CONFIG in file.metadata or any(split(name) for name in file.tensors)


def split(name: str) -> keys.Key | None:
    """Return what a key means, or None."""
    name = name.removeprefix(PREFIX)
    if old := _OLD.search(name):
        module = f"{name[: old.start()]}.{old[1]}{'.0' * (old[1] == 'to_out')}"
        return keys.Key(module, old[2])
    for kind, ends in ENDS.items():
        for end in ends:
            if name.endswith(end) and name != end:
                return keys.Key(name.removesuffix(end), kind)
    return None


def read(file: File, *, text_encoder: bool = True) -> Adapter:
    """Return the adapter of a file. Raises InputError."""
    parts = keys.gather(file, split, text_encoder=text_encoder)
    if (text := file.metadata.get(CONFIG)) is None:
        return keys.adapter_of(file, parts)
    if any(keys.ALPHA in found for found in parts.values()):
        raise InputError(f"{file.where} has alphas as tensors and in {CONFIG}; give one of both")
    try:
        value = parse_json(text, LIMITS)
    except ParseError as e:
        raise InputError(f"{file.where}: {CONFIG} in its header is damaged: {e}") from e
    if isinstance(value, dict) and any(name.startswith(PREFIX) for name in value):
        value = {k.removeprefix(PREFIX): v for k, v in value.items() if k.startswith(PREFIX)}
    config = LoraConfig(value, f"{file.where}: {CONFIG} in its header")
    adapter = keys.adapter_of(file, parts, config.alpha_of, rslora=config.rslora)
    config.check_dora(adapter)
    return adapter


def write(adapter: Adapter, where: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return (tensors, texts of the header) of an adapter with diffusers' names."""
    config = {PREFIX + name: value for name, value in config_of(adapter, where).items()}
    metadata = {"format": "pt", **keys.header(adapter)}
    metadata[CONFIG] = json.dumps(config, indent=2, sort_keys=True)
    return {PREFIX + k: v for k, v in tensors_of(adapter).items()}, metadata


def tensors_of(adapter: Adapter) -> dict[str, np.ndarray]:
    """Return the tensors of an adapter as PEFT names them, without a prefix."""
    ends = {kind: ENDS[kind][0] for kind in (keys.DOWN, keys.UP, keys.MAGNITUDE)}
    tensors = keys.of_modules(adapter, ends)
    for module, layer in adapter.layers.items():
        if layer.magnitude is not None and layer.up.ndim == 4:
            tensors[module + ends[keys.MAGNITUDE]] = layer.magnitude.reshape(1, -1, 1, 1)
    return tensors
