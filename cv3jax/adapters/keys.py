"""What the formats share: from the keys of a file to the layers of an adapter.

Each key belongs to one layer, or it is an error that names it: nothing is left out in silence.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from cv3jax.adapters.adapter import Adapter, Layer, check, listed
from cv3jax.adapters.naming import naming_of, sizes_in
from cv3jax.adapters.tensors import File
from data_pipeline.io.errors import InputError

DOWN, UP, ALPHA, MAGNITUDE = "down", "up", "alpha", "magnitude"
STAGE = "cv3jax.stage"  # in a header: the stage that the adapter is for
STAGES = ("base", "relay")
# texts of a header that are about the file's form, and are written anew
FORM = ("format", "lora_adapter_metadata", "cv3jax.format", "cv3jax.rslora", STAGE)
TEXT_ENCODER = re.compile(r"lora_te\d?_|text_encoder(_\d)?\.|te\d?\.|base_model\.model\.text_model")
# keys of other ways to change a weight → what they are
OTHERS = (
    (r"\.hada_w", "LoHa"),
    (r"\.lokr_w", "LoKr"),
    (r"\.lora_mid\.", "a convolution in three parts (lora_mid)"),
    (r"\.oft_|\.boft_", "OFT"),
    (r"\.diff(_b)?$", "whole differences of weights"),
    (r"\.(a1|a2|b1|b2)\.weight$|\.on_input$|\.alpha_in$", "another kind of adapter"),
    (r"lora_[BA](\.[^.]+)?\.bias$|lora_up\.bias$", "biases"),
    (r"lora_embedding_[AB]", "embeddings"),
)


class Key(NamedTuple):
    """What a key means: a part of the layer of a module."""

    module: str
    kind: str  # DOWN, UP, ALPHA or MAGNITUDE


Parts = dict[str, dict[str, np.ndarray]]  # module → kind → array


def gather(file: File, split: Callable[[str], Key | None], *, text_encoder: bool) -> Parts:
    """Return the tensors of a file by module and kind.

    text_encoder: whether keys of a text encoder are refused; otherwise they are left out.

    Raises InputError on a key that `split` does not know, and on two for one place.
    """
    parts: Parts = {}
    lost, texts = [], []
    for name, tensor in file.tensors.items():
        if TEXT_ENCODER.match(name):
            texts.append(name)
            continue
        if (key := split(name)) is None:
            lost.append(name)
            continue
        if key.kind in parts.setdefault(key.module, {}):
            raise InputError(f"{file.where} has two tensors for the {key.kind} of {key.module}")
        parts[key.module][key.kind] = tensor
    if texts and text_encoder:
        raise InputError(
            f"{file.where} also changes a text encoder, which is not the T5 of CogView3"
            f" ({listed(texts, 'tensor')}); leave it out with cv3jax lora convert"
            " --without-text-encoder, or train the UNet alone"
        )
    if lost:
        for pattern, kind in OTHERS:
            if found := [name for name in lost if re.search(pattern, name)]:
                raise InputError(
                    f"{file.where} has {kind}, and only LoRA and DoRA are read"
                    f" ({listed(found, 'tensor')})"
                )
        raise InputError(
            f"{file.where} has tensors that belong to no layer: {listed(lost, 'tensor')}"
        )
    return parts


def adapter_of(
    file: File,
    parts: Parts,
    alpha_of: Callable[[str, int], float] | None = None,
    *,
    rslora: bool = False,
) -> Adapter:
    """Return the adapter of gathered tensors, checked.

    alpha_of: (module, rank) → alpha where no tensor says it; by default the rank.

    Raises InputError on a layer that lacks a part, or whose shapes or values cannot be.
    """
    layers, names = {}, {naming_of(module) for module in parts}
    if len(names) > 1:
        raise InputError(f"{file.where} mixes sgm's and diffusers' names of layers; give one kind")
    for module, found in parts.items():
        if missing := [kind for kind in (DOWN, UP) if kind not in found]:
            has = ", ".join(found)
            raise InputError(f"{file.where}: {module} has {has}, but no {missing[0]}")
        rank = found[DOWN].shape[0] if found[DOWN].ndim else 0
        if ALPHA in found:
            alpha = _scalar(found[ALPHA], file.where, module)
        else:
            alpha = float(rank) if alpha_of is None else alpha_of(module, rank)
        magnitude = found.get(MAGNITUDE)
        if magnitude is not None:
            magnitude = _rows(magnitude, found[UP], file.where, module)
        layers[module] = Layer(found[DOWN], found[UP], alpha, magnitude)
    stage = file.metadata.get(STAGE)
    if stage is not None and stage not in STAGES:
        raise InputError(f"{file.where}: {STAGE} in its header is {stage[:40]!r}: base or relay")
    kept = {name: text for name, text in file.metadata.items() if name not in FORM}
    naming = names.pop() if names else "sgm"
    adapter = Adapter(layers, stage, rslora, kept, naming)
    check(adapter, file.where)
    sizes_in(adapter, file.where)  # raises on a damaged header, whether or not it is needed
    return adapter


def _scalar(array: np.ndarray, where: str, module: str) -> float:
    if array.size != 1 or array.dtype.kind not in "fiuV" or array.dtype.kind == "b":
        raise InputError(f"{where}: the alpha of {module} is {list(array.shape)}, not one number")
    return float(array.reshape(()).astype(np.float64))


def _rows(magnitude: np.ndarray, up: np.ndarray, where: str, module: str) -> np.ndarray:
    """Return DoRA's magnitude as [out]: kohya has [out, 1, …], PEFT [1, out, 1, 1].

    LyCORIS can also scale columns, [1, in, …], which no other library reads.
    """
    out, shape = up.shape[0] if up.ndim else 0, magnitude.shape
    peft = up.ndim == 4 and shape == (1, out, 1, 1)
    if shape == (out,) or shape == (out, *(1,) * (up.ndim - 1)) or peft:
        return magnitude.reshape(out)
    raise InputError(
        f"{where}: the DoRA scale of {module} is {list(shape)}; only one for each of its {out}"
        " output rows is read, as PEFT and diffusers have it"
    )


def number(value: float) -> np.ndarray:
    """Return a number as a tensor without axes, float32 where that holds it."""
    narrow = np.float32(value)
    return np.asarray(narrow if float(narrow) == value else value)


def header(adapter: Adapter) -> dict[str, str]:
    """Return the texts of a header that every format has."""
    stage = {} if adapter.stage is None else {STAGE: adapter.stage}
    return {**adapter.metadata, **stage}


def of_modules(adapter: Adapter, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the tensors of an adapter; names: kind → the end of its key, such as ".alpha"."""
    tensors = {}
    for module, layer in adapter.layers.items():
        tensors[module + names[DOWN]] = layer.down
        tensors[module + names[UP]] = layer.up
        if ALPHA in names:
            tensors[module + names[ALPHA]] = number(layer.alpha)
        if layer.magnitude is not None:
            tensors[module + names[MAGNITUDE]] = layer.magnitude
    return tensors
