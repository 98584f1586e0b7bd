"""What a recipe says of its networks: fields of the UNet, the autoencoder and the text encoder.

`config.model` is kept as cascade.json has it, a plain dictionary; UNetFields and AutoencoderFields
hold what each of its values means and must be.
"""

import dataclasses

from cv3jax.checkpoints.description import TextDescription
from cv3jax.fields import SWITCH, check, each, field, one_of, whole
from cv3jax.models import DTYPES, REMATS

COMPUTED = "Type in which the network computes; parameters stay float32."


@dataclasses.dataclass(frozen=True)
class UNetFields:
    """Fields of `cv3jax.models.unet.UNet` that a recipe sets."""

    channels: int = field(
        "Channels at the highest resolution; channels × channel_mult must divide by groups.",
        whole(1),
    )
    channel_mult: tuple[int, ...] = field(
        "Channels of each resolution, as multiples of channels; each resolution halves the last.",
        each(whole(1)),
    )
    res_blocks: int = field("Residual blocks at each resolution on the way down.", whole(1))
    depth: tuple[int, ...] = field(
        "Transformer blocks after each residual block, one number a resolution; 0: no attention.",
        each(whole(0)),
    )
    mid_depth: int = field("Transformer blocks in the middle of the UNet.", whole(0))
    head_dim: int = field("Channels of an attention head; must divide the channels.", whole(1))
    w_dim: int = field(
        "Width of the guidance-weight embedding of a distilled model; 0: none.", whole(0)
    )
    groups: int = field("Groups of each group normalisation.", whole(1))
    remat: str = field(
        "What the backward pass recomputes: nothing (none), all of a block but its convolutions"
        " (block), or all of it (full, or offload: the blocks' inputs are kept in the host's"
        " memory).",
        one_of(*REMATS),
    )
    dtype: str = field(COMPUTED, one_of(*DTYPES))


@dataclasses.dataclass(frozen=True)
class AutoencoderFields:
    """Fields of `cv3jax.models.vae.Autoencoder` that a recipe sets."""

    channels: int = field("Channels at the highest resolution.", whole(1))
    channel_mult: tuple[int, ...] = field(
        "Channels of each resolution, as multiples of channels; each resolution halves the last.",
        each(whole(1)),
    )
    res_blocks: int = field("Residual blocks at each resolution of the encoder.", whole(1))
    z_channels: int = field("Channels of the latents.", whole(1))
    patch: int = field(
        "Side in pixels of the patches that are folded into channels before the first convolution.",
        whole(1),
    )
    groups: int = field("Groups of each group normalisation; 0: no normalisation.", whole(0))
    mid_attention: bool = field("Whether all positions attend to all in the middle.", SWITCH)
    dtype: str = field(COMPUTED, one_of(*DTYPES))


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """The text encoder's dtype, and a random encoder where the cascade brings none."""

    random: bool = field(
        "Whether to use a frozen random T5 where the cascade has no text encoder; the fields"
        " below but dtype are its sizes.",
        SWITCH,
    )
    length: int = field("Tokens of a caption; longer captions are cut.", whole(1))
    vocab: int = field(
        "Largest vocabulary of the tokenizer, which is trained on the data's own captions.",
        whole(1),
    )
    channels: int = field("Width of the text features.", whole(1))
    layers: int = field("Transformer blocks.", whole(1))
    heads: int = field("Attention heads.", whole(1))
    head_dim: int = field("Channels of an attention head.", whole(1))
    ff: int = field("Width of the feed-forward layers.", whole(1))
    dtype: str = field("Type in which the text encoder computes.", one_of(*DTYPES))

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
