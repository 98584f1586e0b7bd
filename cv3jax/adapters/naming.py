"""Names of a UNet's modules in adapters' files: sgm's, diffusers', and kohya's form of both.

kohya writes an underscore for each dot. diffusers' names count blocks by stage, so only a UNet's
sizes say which of sgm's they are; a file that we write has them in its header.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from cv3jax.adapters.adapter import DIFFUSERS, SGM, Adapter, listed
from cv3jax.checkpoints.description import StageDescription
from cv3jax.checkpoints.description_fields import UNET, filled
from cv3jax.weights.diffusers import unet_names
from cv3jax.weights.names import Entry, unet_entries
from data_pipeline.io.bounded_json import SETTINGS, ParseError, parse_json
from data_pipeline.io.errors import InputError

SIZES = "cv3jax.unet"  # in a header: the sizes of the UNet that the adapter was made for
FIELDS = ("channels", "channel_mult", "res_blocks", "depth", "mid_depth", "w_dim")
_END = ".weight"
# the parts of modules' names that have an underscore; the longer ones first
_WORDS = sorted(
    (
        *("input_blocks", "middle_block", "output_blocks", "transformer_blocks", "time_embed"),
        *("label_emb", "in_layers", "emb_layers", "out_layers", "skip_connection", "w_proj"),
        *("proj_in", "proj_out", "to_q", "to_k", "to_v", "to_out"),
        *("down_blocks", "mid_block", "up_blocks", "time_embedding", "add_embedding"),
        *("linear_1", "linear_2", "cond_proj", "conv_in", "conv_out", "conv_shortcut"),
        "time_emb_proj",
    ),
    key=len,
    reverse=True,
)
_WORD = re.compile(rf"({'|'.join(_WORDS)}|[A-Za-z0-9]+)(?:_|$)")
_OF_DIFFUSERS = ("down_blocks", "mid_block", "up_blocks", "time_embedding", "add_embedding")
_ENDS_OF_DIFFUSERS = ("conv_in", "conv_out")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the names of a UNet's modules depend on; see `cv3jax.models.unet.UNet`."""

    channels: int
    channel_mult: tuple[int, ...]
    res_blocks: int
    depth: tuple[int, ...]
    mid_depth: int
    w_dim: int

    @classmethod
    def of(cls, stage: StageDescription) -> "Sizes":
        """Return the sizes of a stage's UNet."""
        return cls._of(filled(stage.model, UNET))

    @classmethod
    def from_json(cls, text: str, where: str) -> "Sizes":
        """Return the sizes that a header has. Raises InputError where they are no UNet's."""
        try:
            value = parse_json(text, SETTINGS)
        except ParseError as e:
            raise InputError(f"{where}: {SIZES} in its header is damaged: {e}") from e
        if not isinstance(value, dict) or value.keys() != set(FIELDS):
            raise InputError(f"{where}: {SIZES} in its header must have {', '.join(FIELDS)}")
        for name in FIELDS:
            if not UNET[name].rule.fits(value[name]):
                right = UNET[name].rule.right
                raise InputError(f"{where}: {name} of {SIZES} in its header must be {right}")
        if len(value["depth"]) != len(value["channel_mult"]):
            raise InputError(f"{where}: depth and channel_mult of {SIZES} must be equally long")
        return cls._of(value)

    @classmethod
    def _of(cls, model: Mapping[str, Any]) -> "Sizes":
        value = {name: model[name] for name in FIELDS}
        return cls(**{k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in value.items()})

    def to_json(self) -> str:
        """Return the sizes as a header has them."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def as_fields(sizes: Sizes) -> dict[str, Any]:
    """Return sizes as JSON has them."""
    return dataclasses.asdict(sizes)


@functools.lru_cache(maxsize=8)
def modules(sizes: Sizes) -> dict[str, Entry]:
    """Return sgm's name of each module that an adapter may change → its kernel's entry."""
    return {
        entry.torch.removesuffix(_END): entry
        for entry in unet_entries(**dataclasses.asdict(sizes))
        if entry.path[-1] == "kernel"
    }


@functools.lru_cache(maxsize=8)
def of_diffusers(sizes: Sizes) -> dict[str, str]:
    """Return {sgm's name: diffusers' name} of the modules that an adapter may change."""
    entries = modules(sizes)
    renamed = unet_names(list(entries.values()), len(sizes.channel_mult))
    return {name: one.torch.removesuffix(_END) for name, one in zip(entries, renamed, strict=True)}


def sizes_in(adapter: Adapter, where: str) -> Sizes | None:
    """Return the sizes that an adapter's header has, or None. Raises InputError."""
    text = adapter.metadata.get(SIZES)
    return None if text is None else Sizes.from_json(text, where)


def named(adapter: Adapter, naming: str, sizes: Sizes | None, where: str) -> Adapter:
    """Return an adapter whose layers have the names of `naming`.

    sizes: of the UNet; by default those of the adapter's header.

    Raises:
        InputError: the sizes are needed and unknown, or a layer is not of such a UNet.
    """
    if adapter.naming == naming:
        return adapter
    sizes = sizes_in(adapter, where) if sizes is None else sizes
    if sizes is None:
        raise InputError(
            f"{where}: its layers have {_whose(adapter.naming)} names, and only the UNet's sizes"
            f" say which of {_whose(naming)} they are; give its cascade as --checkpoint"
        )
    table = of_diffusers(sizes)
    if naming == SGM:
        table = {theirs: ours for ours, theirs in table.items()}
    if lost := [name for name in adapter.layers if name not in table]:
        raise InputError(
            f"{where} was made for another model: the UNet has no {listed(lost, 'layer')}"
        )
    layers = {table[name]: layer for name, layer in adapter.layers.items()}
    return dataclasses.replace(adapter, layers=layers, naming=naming)


def _whose(naming: str) -> str:
    return "diffusers'" if naming == DIFFUSERS else "sgm's"


def with_dots(text: str) -> str | None:
    """Return the module whose dots kohya wrote as underscores, or None where it is none."""
    words, place = [], 0
    while place < len(text):
        if not (word := _WORD.match(text, place)):
            return None
        words.append(word[1])
        place = word.end()
    return None if text.endswith("_") else ".".join(words)


def naming_of(module: str) -> str:
    """Return whose name a module has, sgm's or diffusers'."""
    first = module.partition(".")[0]
    ours = first not in (*_OF_DIFFUSERS, *_ENDS_OF_DIFFUSERS)
    return SGM if ours else DIFFUSERS
