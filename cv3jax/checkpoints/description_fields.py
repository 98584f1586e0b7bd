"""The fields of `cascade.json`: what each means, of which type it is, and its range.

This is their one place. The recipes take their rules of the same fields from here, so what is
trained can be read again. A field that is not here is refused.
"""

from typing import Any, NamedTuple

from cv3jax.diffusion import BLURS, FORMS, PREDICTIONS
from cv3jax.diffusion.points import T
from cv3jax.fields import SWITCH, Rule, each, number, one_of, optional, whole
from cv3jax.models import DTYPES, REMATS

STAGES = ("base", "relay")
REQUIRED = "required"  # in place of a default
MAX_SIDE = 16_384  # pixels
MOST = 6  # resolutions of a network

CHANNELS = whole(1, 8192)
WIDTH = whole(1, 2**17)  # of a matrix
EACH_MULT = each(whole(1, 64), most=MOST)
EMBEDDING = Rule(
    "int",
    "0, or 4..8192",
    whole(0).typed,
    lambda value: value == 0 or 4 <= value <= 8192,
    (-1, 3, 8193),
)
OBJECT = Rule("object", "an object", lambda value: isinstance(value, dict), outside=([],))
GUIDANCE = number(0, 100)
SCALE = number(1e-6, 1e6)
PREVIEW = Rule(
    "list of rows",
    "a matrix of finite numbers, with one row more than the latents have channels and 3 columns",
    lambda value: (
        isinstance(value, list)
        and all(isinstance(row, list) and len(row) == 3 for row in value)
        and all(number(-1e6, 1e6).fits(x) for row in value for x in row)
    ),
    lambda value: len(value) > 1,
    ([[0, 0, 0]], [[0, 0]] * 2),
    none=True,
)
W_RANGE = Rule(
    "pair of numbers",
    "two numbers, 0 <= low <= high <= 100, or none",
    lambda value: isinstance(value, list) and len(value) == 2 and all(map(GUIDANCE.typed, value)),
    lambda value: all(map(GUIDANCE.fits, value)) and value[0] <= value[1],
    ([2, 1], [-1, 1]),
    none=True,
)


class Field(NamedTuple):
    """What a field means, its rule, and the value where it is missing."""

    meaning: str
    rule: Rule
    default: Any = REQUIRED


Fields = dict[str, Field]
DTYPE = "Type in which the network computes; parameters stay float32."

UNET: Fields = {  # of `cv3jax.models.unet.UNet`
    "channels": Field(
        "Channels at the highest resolution; channels × channel_mult must divide by groups.",
        CHANNELS,
        320,
    ),
    "channel_mult": Field(
        "Channels of each resolution, as multiples of channels; each resolution halves the last.",
        EACH_MULT,
        (1, 2, 4),
    ),
    "res_blocks": Field("Residual blocks at each resolution on the way down.", whole(1, 8), 2),
    "depth": Field(
        "Transformer blocks after each residual block, one number a resolution; 0: no attention.",
        each(whole(0, 128), most=MOST),
        (0, 2, 10),
    ),
    "mid_depth": Field("Transformer blocks in the middle of the UNet.", whole(0, 128), 10),
    "head_dim": Field(
        "Channels of an attention head; must divide the channels.", whole(1, 1024), 64
    ),
    "out_channels": Field("Channels of the latents.", whole(1, 256), 4),
    "w_dim": Field(
        "Width of the guidance-weight embedding of a distilled model; 0: none.", EMBEDDING, 0
    ),
    "groups": Field("Groups of each group normalisation.", whole(1, 1024), 32),
    "remat": Field(
        "What the backward pass recomputes: nothing (none), all of a block but its convolutions"
        " (block), or all of it (full, or offload: the blocks' inputs are kept in the host's"
        " memory).",
        one_of(*REMATS),
        "none",
    ),
    "dtype": Field(DTYPE, one_of(*DTYPES), "float32"),
}
AUTOENCODER: Fields = {  # of `cv3jax.models.vae.Autoencoder`
    "channels": Field("Channels at the highest resolution.", CHANNELS, 128),
    "channel_mult": Field(
        "Channels of each resolution, as multiples of channels; each resolution halves the last.",
        EACH_MULT,
        (1, 2, 4, 4),
    ),
    "res_blocks": Field("Residual blocks at each resolution of the encoder.", whole(1, 8), 2),
    "z_channels": Field("Channels of the latents.", whole(1, 256), 4),
    "patch": Field(
        "Side in pixels of the patches that are folded into channels before the first convolution.",
        whole(1, 64),
        1,
    ),
    "groups": Field("Groups of each group normalisation; 0: no normalisation.", whole(0, 1024), 32),
    "mid_attention": Field("Whether all positions attend to all in the middle.", SWITCH, True),
    "dtype": Field(DTYPE, one_of(*DTYPES), "float32"),
}
T5: Fields = {  # of `cv3jax.models.t5.T5Encoder`
    "vocab": Field("Tokens of the vocabulary.", whole(1, 2**20), 32128),
    "channels": Field("Width of the text features.", whole(1, 2**14), 4096),
    "layers": Field("Transformer blocks.", whole(1, 256), 24),
    "heads": Field("Attention heads.", whole(1, 1024), 64),
    "head_dim": Field("Channels of an attention head.", whole(1, 1024), 64),
    "ff": Field("Width of the feed-forward layers.", WIDTH, 10240),
    "buckets": Field("Buckets of distances between tokens.", whole(4, 1024), 32),
    "max_distance": Field("Distance from which all share a bucket.", whole(2, 2**16), 128),
    "epsilon": Field("Added to the mean square of a norm.", number(above=0, high=0.1), 1e-6),
    "dtype": Field("Type in which the text encoder computes.", one_of(*DTYPES), "float32"),
}
DISTILLED: Fields = {
    "steps": Field("Steps to which the stage was distilled.", whole(1, T)),
    "w": Field("Range of guidance weights that it was distilled for; none: unknown.", W_RANGE),
}
STAGE: Fields = {
    "kind": Field("Whether the stage starts from noise or from a picture.", one_of(*STAGES)),
    "model": Field("Fields of the UNet.", OBJECT),
    "text_width": Field("Channels of the text features that it reads.", T5["channels"].rule),
    "prediction": Field(
        "What the network predicts: the noise (eps) or the velocity (v).", one_of(*PREDICTIONS)
    ),
    "factor": Field("Pixels per position of the latents, per side.", whole(1, 2048)),
    "image_size": Field("Side of its pictures in pixels.", whole(1, MAX_SIDE)),
    "start": Field("T_r, the index from which a relay starts.", whole(1, T)),
    "steps": Field("Steps of the sampler.", whole(1, T)),
    "guidance": Field("Weight of classifier-free guidance; 1: none.", GUIDANCE),
    "eta": Field("Share of fresh noise at each step; 0: deterministic.", number(0, 1)),
    "form": Field(
        "The relay's sampler: with fixed (released) or carried (paper) low-resolution latents.",
        one_of(*FORMS),
    ),
    "blur": Field(
        "How a relay's x0 drifts towards the low-resolution latent; none: no relay.",
        optional(one_of(*BLURS)),
        None,
    ),
    "zero_snr": Field(
        "Whether the last index has no signal at all, so that sampling starts as in training (arXiv"
        " 2305.08891); for a base stage that predicts v.",
        SWITCH,
        False,
    ),
    "guidance_rescale": Field(
        "Share to which the deviation of a guided prediction is that of the one with text (φ of"
        " arXiv 2305.08891); 0: guidance as it is.",
        number(0, 1),
        0.0,
    ),
    "distilled": Field(
        "What a stage was distilled for.",
        Rule("object", "an object", OBJECT.typed, outside=([],), none=False),
        None,
    ),
}
TEXT: Fields = {
    "model": Field("Fields of the text encoder.", OBJECT),
    "length": Field("Tokens of a caption; longer captions are cut.", whole(2, 4096)),
}
VAE: Fields = {
    "model": Field("Fields of the autoencoder.", OBJECT),
    "scale": Field("Factor that gives the latents unit variance.", SCALE),
    "preview": Field("From a scaled latent and a constant to RGB in -1..1.", PREVIEW, None),
}


def filled(model: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """Return a model's fields with the defaults of those that it lacks."""
    return {name: model.get(name, field.default) for name, field in fields.items()}
