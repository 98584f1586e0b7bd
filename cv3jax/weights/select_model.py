"""Find the UNet, autoencoder or text encoder in a checkpoint file, and what else is in it."""

import re
from collections import Counter

import numpy as np

from cv3jax.checkpoints.streaming import Leaf
from cv3jax.weights.files import Tensors
from data_pipeline.io.errors import InputError, counted

# prefixes of each model in the checkpoint of a whole engine
PREFIX = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "t5": "conditioner.embedders.0.transformer.",
}
# what else such files are known to hold, beside a model without a prefix
_ENGINE = ("conditioner.", "denoiser.", "model_ema.")
_BESIDE = {"unet": _ENGINE, "vae": (*_ENGINE, "loss."), "t5": ("decoder.", "lm_head.")}
# tensors that every model of a kind has, by which an unknown prefix is found
_ANCHORS = {
    "unet": ("input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight"),
    "vae": ("encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.conv_out.weight"),
    "t5": (
        "encoder.block.0.layer.0.SelfAttention.q.weight",
        "encoder.block.0.layer.1.DenseReluDense.wo.weight",
        "encoder.final_layer_norm.weight",
    ),
}
# what PyTorch's wrappers write into names: torch.compile, FSDP, checkpointing
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGE = re.compile(r"(?:^|[._])ema(?:[._]|$)")
_KIND = {"unet": "UNet", "vae": "autoencoder", "t5": "text encoder"}
_FLOATS = ("float16", "bfloat16", "float32")
_EMBED, _TIED = "shared.weight", "encoder.embed_tokens.weight"


def pick(tensors: Tensors, kind: str, where: str) -> tuple[Tensors, dict[str, int], str]:
    """Return (the tensors of one model, without prefix; {what else there is: how many}; prefix)."""
    tensors = _unwrapped(tensors, where)
    prefix = _prefix(tensors, kind, where)
    if prefix:
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
    else:
        beside = (*(other for other in PREFIX.values() if other != prefix), *_BESIDE[kind])
        own = {name: tensor for name, tensor in tensors.items() if not name.startswith(beside)}
    taken = {prefix + name for name in own}
    others = Counter(_group(name) for name in tensors if name not in taken)
    if not own:
        raise InputError(f"{where} holds no {_KIND[kind]}, only {_listed(others) or 'nothing'}")
    if wrong := sorted(name for name, tensor in own.items() if tensor.dtype.name not in _FLOATS):
        kind = own[wrong[0]].dtype.name
        shown = "of another type" if kind.startswith("void") else kind
        raise InputError(
            f"{where}: {wrong[0]} is {shown}; weights are one of {', '.join(_FLOATS)} ({len(wrong)}"
            " in all)"
        )
    # a file holds the bytes that its shapes say, so the file's size bounds the model's, unless a
    # tensor is empty
    if empty := sorted(name for name, tensor in own.items() if not tensor.size):
        raise InputError(
            f"{where}: {empty[0]} has the shape {list(own[empty[0]].shape)} and no values"
            f" ({len(empty)} in all)"
        )
    return (_untie(own, where) if kind == "t5" else own), dict(others), prefix


def _unwrapped(tensors: Tensors, where: str) -> Tensors:
    """Return the tensors under the names that they have without PyTorch's wrappers."""
    plain = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    if len(plain) < len(tensors):
        raise InputError(
            f"{where} holds {len(tensors) - len(plain)} tensors twice, with and without the"
            " prefixes of torch.compile or FSDP; give a file of one model"
        )
    return plain


def _prefix(tensors: Tensors, kind: str, where: str) -> str:
    """Return what stands before the names of one model; empty where nothing does."""
    known, engines = PREFIX[kind], (other for name, other in PREFIX.items() if name != kind)
    if any(name.startswith(known) for name in tensors):
        return known
    beside = (*engines, *(part for part in _BESIDE[kind] if part != "model_ema."))
    found = Counter(
        name.removesuffix(anchor)
        for name in tensors
        for anchor in _ANCHORS[kind]
        if name.endswith(anchor) and name.removesuffix(anchor)[-1:] in ("", ".")
    )
    if "" in found:
        return ""
    names = sorted(prefix for prefix in found if not prefix.startswith(beside))
    # as in a whole engine's checkpoint, whose average is not used, which is said
    names = [name for name in names if not _AVERAGE.search(name)] or names
    if len(names) > 1:
        raise InputError(
            f"{where} holds {len(names)} {_KIND[kind]}s, under {', '.join(names[:8])}; give"
            " a file with one"
        )
    return names[0] if names else ""


def words(others: dict[str, int]) -> str:
    """Return one line on what a file holds besides what was taken; empty for nothing."""
    return f"not used: {_listed(others)}" if others else ""


def dtypes(tensors: Tensors) -> str:
    """Return `float16`, or several types with their numbers of tensors."""
    counts = Counter(tensor.dtype.name for tensor in tensors.values())
    return (
        next(iter(counts))
        if len(counts) == 1
        else ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    )


def _group(name: str) -> str:
    return next(
        (prefix for prefix in PREFIX.values() if name.startswith(prefix)), f"{name.split('.')[0]}."
    )


def _listed(others: dict[str, int]) -> str:
    shown = [
        f"{counted(count, 'tensor')} of {prefix}*" for prefix, count in list(others.items())[:8]
    ]
    return ", ".join(shown) + (f" and {len(others) - 8} other kinds" if len(others) > 8 else "")


def _untie(tensors: Tensors, where: str) -> Tensors:
    """Return the tensors with one name for T5's table of tokens, which has two in some files."""
    tensors = dict(tensors)
    tied: Leaf | None = tensors.pop(_TIED, None)
    if tied is not None and _EMBED in tensors:
        table = tensors[_EMBED]
        if table.shape != tied.shape or not np.array_equal(table.read(), tied.read()):
            raise InputError(
                f"{where}: {_TIED} differs from {_EMBED}; in a T5 they are the same table"
            )
    elif tied is not None:
        tensors[_EMBED] = tied
    return tensors
