"""PEFT's format: a folder of adapter_config.json and adapter_model.safetensors.

The keys are base_model.model.NAME.lora_A.weight, .lora_B.weight and .lora_magnitude_vector, with
the names of the model that was adapted: diffusers' UNet2DConditionModel.
"""

import numpy as np

from cv3jax.adapters import diffusers, keys
from cv3jax.adapters.adapter import Adapter
from cv3jax.adapters.format_names import CONFIG
from cv3jax.adapters.lora_config import LoraConfig, config_of
from cv3jax.adapters.tensors import File
from data_pipeline.io.errors import InputError

PREFIX = "base_model.model."


def knows(file: File) -> bool:
    """Return whether a file has this format."""
    return any(name.startswith(PREFIX) for name in file.tensors)


def split(name: str) -> keys.Key | None:
    """Return what a key means, or None."""
    return diffusers.split(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


def read(file: File, *, text_encoder: bool = True) -> Adapter:
    """Return the adapter of a file with its config. Raises InputError."""
    if file.config is None:
        raise InputError(f"{file.where}: its alphas are in {CONFIG}; put that file beside it")
    config = LoraConfig(file.config, f"{file.where}: {CONFIG}")
    parts = keys.gather(file, split, text_encoder=text_encoder)
    adapter = keys.adapter_of(file, parts, config.alpha_of, rslora=config.rslora)
    config.check_dora(adapter)
    return adapter


def write(adapter: Adapter, where: str) -> tuple[dict[str, np.ndarray], dict[str, str], dict]:
    """Return (tensors, texts of the header, adapter_config.json) of an adapter.

    Its layers have diffusers' names.
    """
    tensors = {PREFIX + name: value for name, value in diffusers.tensors_of(adapter).items()}
    return tensors, {"format": "pt", **keys.header(adapter)}, config_of(adapter, where)
