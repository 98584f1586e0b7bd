"""What a recipe says of its networks: fields of the UNet, the autoencoder and the text encoder.

`config.model` is kept as cascade.json has it, a plain dictionary; UNetFields and AutoencoderFields
hold what each of its values means and must be.
"""

import dataclasses
from typing import Any

from cv3jax.checkpoints.description import TextDescription
from cv3jax.checkpoints.description_fields import AUTOENCODER, T5, TEXT, UNET, Field
from cv3jax.fields import SWITCH, check, field, one_of, whole
from cv3jax.models import DTYPES


def same(one: Field) -> Any:
    """Return a recipe's field with the meaning and the rule of a field of cascade.json."""
    return field(one.meaning, one.rule)


@dataclasses.dataclass(frozen=True)
class UNetFields:
    """Fields of `cv3jax.models.unet.UNet` that a recipe sets."""

    channels: int = same(UNET["channels"])
    channel_mult: tuple[int, ...] = same(UNET["channel_mult"])
    res_blocks: int = same(UNET["res_blocks"])
    depth: tuple[int, ...] = same(UNET["depth"])
    mid_depth: int = same(UNET["mid_depth"])
    head_dim: int = same(UNET["head_dim"])
    # a distillation has a rule of its own for it
    w_dim: int = field(UNET["w_dim"].meaning, whole(0, 8192))
    groups: int = same(UNET["groups"])
    remat: str = same(UNET["remat"])
    dtype: str = same(UNET["dtype"])


@dataclasses.dataclass(frozen=True)
class AutoencoderFields:
    """Fields of `cv3jax.models.vae.Autoencoder` that a recipe sets."""

    channels: int = same(AUTOENCODER["channels"])
    channel_mult: tuple[int, ...] = same(AUTOENCODER["channel_mult"])
    res_blocks: int = same(AUTOENCODER["res_blocks"])
    z_channels: int = same(AUTOENCODER["z_channels"])
    patch: int = same(AUTOENCODER["patch"])
    groups: int = same(AUTOENCODER["groups"])
    mid_attention: bool = same(AUTOENCODER["mid_attention"])
    dtype: str = same(AUTOENCODER["dtype"])


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """The text encoder's dtype, and a random encoder where the cascade brings none."""

    random: bool = field(
        "Whether to use a frozen random T5 where the cascade has no text encoder; the fields"
        " below but dtype are its sizes.",
        SWITCH,
    )
    length: int = same(TEXT["length"])
    vocab: int = field(
        "Largest vocabulary of the tokenizer, which is trained on the data's own captions.",
        T5["vocab"].rule,
    )
    channels: int = same(T5["channels"])
    layers: int = same(T5["layers"])
    heads: int = same(T5["heads"])
    head_dim: int = same(T5["head_dim"])
    ff: int = same(T5["ff"])
    dtype: str = same(T5["dtype"])

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "text")

    @property
    def description(self) -> TextDescription:
        """Return what cascade.json says of the random T5Encoder."""
        fields = dataclasses.asdict(self)
        model = {name: fields[name] for name in fields if name not in ("random", "length")}
        return TextDescription(model, self.length)


@dataclasses.dataclass(frozen=True)
class VaeSettings:
    """The dtype in which the frozen autoencoder computes."""

    dtype: str = field("Type in which the frozen autoencoder computes.", one_of(*DTYPES))

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "vae")
