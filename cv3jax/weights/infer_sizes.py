"""Infer a model's sizes from the names and shapes of a released checkpoint.

The results are fields of `models`' UNet, Autoencoder and T5Encoder. Each size is the one on which
most of the tensors that show it agree. So `mapping.check_tensors` names a tensor of a wrong shape,
instead of expecting another model.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from data_pipeline.io.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]  # torch name → torch shape
HEAD = 64  # default channels of an attention head, as in the release


def unet_fields(shapes: Shapes, head_channels: int | None = None) -> dict[str, Any]:
    """Return the UNet's sizes.

    Shapes do not show the width of a head: it is `head_channels`, or HEAD where every attention's
    width divides by it.

    Raises:
        InputError: the names are not those of a UNet of this family, or the width of a head must be
            given.
    """
    first = "input_blocks.0.0"
    channels = _most(
        shapes,
        [
            ("time_embed.0.weight", 1),
            (f"{first}.weight", 0),
            (f"{first}.bias", 0),
            ("out.0.weight", 0),
        ],
    )
    z = _most(shapes, [("out.2.weight", 0), ("out.2.bias", 0), (f"{first}.weight", 1)])
    # (width, depth) of each residual block, stage by stage
    stages: list[list[tuple[int, int]]] = [[]]
    for index in range(1, _count(shapes, "input_blocks")):
        block = f"input_blocks.{index}"
        if any(name.startswith(f"{block}.0.op.") for name in shapes):
            stages.append([])
        else:
            width = _most(
                shapes,
                [
                    (f"{block}.0.{name}", 0)
                    for name in (
                        "out_layers.3.weight",
                        "out_layers.3.bias",
                        "out_layers.0.weight",
                        "in_layers.2.weight",
                        "emb_layers.1.weight",
                    )
                ],
            )
            stages[-1].append((width, _count(shapes, f"{block}.1.transformer_blocks")))
    agreed = [_common(blocks) for blocks in stages if blocks]
    if (
        len(agreed) < len(stages)
        or not channels
        or any(width < channels or width % channels for width, _ in agreed)
    ):
        raise InputError(
            f"not a UNet of CogView3's family: {channels} channels, then stages of (width, depth)"
            f" {agreed}"
        )
    return {
        "channels": channels,
        "channel_mult": tuple(width // channels for width, _ in agreed),
        "res_blocks": _common([len(blocks) for blocks in stages]),
        "depth": tuple(depth for _, depth in agreed),
        "mid_depth": _count(shapes, "middle_block.1.transformer_blocks"),
        "head_dim": _head(shapes, head_channels),
        "out_channels": z,
        "w_dim": shapes["w_proj.weight"][1] if len(shapes.get("w_proj.weight", ())) == 2 else 0,
    }


def text_width(shapes: Shapes) -> int:
    """Return the channels of the text features that a UNet's cross-attention reads.

    Raises InputError where it has none.
    """
    keys = [
        (name, 1) for name in shapes if name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))
    ]
    return _most(shapes, keys, "attn2.to_k.weight")


def vae_fields(shapes: Shapes) -> dict[str, Any]:
    """Return the autoencoder's sizes.

    Raises InputError where the names are not those of an autoencoder of SDXL's family.
    """
    channels = _most(
        shapes,
        [
            ("encoder.conv_in.weight", 0),
            ("encoder.conv_in.bias", 0),
            ("decoder.norm_out.weight", 0),
        ],
    )
    z = _most(
        shapes,
        [("post_quant_conv.weight", 0), ("post_quant_conv.bias", 0), ("decoder.conv_in.weight", 1)],
    )

    def width(stage: int) -> int:
        pattern = rf"encoder\.down\.{stage}\.block\.\d+\.(conv1|conv2|norm2)\.(weight|bias)"
        return _most(
            shapes,
            [(name, 0) for name in shapes if re.fullmatch(pattern, name)],
            f"encoder.down.{stage}.block.0.conv1.weight",
        )

    stages = [width(i) for i in range(_count(shapes, "encoder.down"))]
    blocks = [_count(shapes, f"encoder.down.{i}.block") for i in range(len(stages))]
    if not stages or not channels or any(width < channels or width % channels for width in stages):
        raise InputError(f"not an autoencoder of SDXL's family: {channels} channels, then {stages}")
    mult = tuple(width // channels for width in stages)
    return {
        "channels": channels,
        "channel_mult": mult,
        "res_blocks": _common(blocks),
        "z_channels": z,
    }


def t5_fields(shapes: Shapes) -> dict[str, Any]:
    """Return the text encoder's sizes.

    Raises InputError where the names are not those of a T5 v1.1 encoder.
    """
    first = "encoder.block.0.layer"

    bias = f"{first}.0.SelfAttention.relative_attention_bias.weight"

    def every(suffix: str) -> int:
        names = [
            name for name in shapes if name.startswith("encoder.block.") and name.endswith(suffix)
        ]
        return _most(shapes, [(name, 0) for name in names], f"{first}.*{suffix}")

    heads = _most(shapes, [(bias, 1)])
    if not heads:
        raise InputError("not a T5 encoder: no attention heads")
    return {
        "vocab": _most(shapes, [("shared.weight", 0)]),
        "channels": every(".layer_norm.weight"),
        "heads": heads,
        "layers": _count(shapes, "encoder.block"),
        "head_dim": every(".SelfAttention.q.weight") // heads,
        "ff": every(".DenseReluDense.wi_0.weight"),
        "buckets": _most(shapes, [(bias, 0)]),
    }


def _most(shapes: Shapes, places: Iterable[tuple[str, int]], named: str = "") -> int:
    """Return the most common length of the (tensor, axis) `places` that exist.

    Raises InputError where none exists.
    """
    places = list(places)
    lengths = [
        shapes[name][axis] for name, axis in places if name in shapes and len(shapes[name]) > axis
    ]
    if not lengths:
        raise InputError(
            f"there is no tensor {named or places[0][0]}, which every model of this kind has"
        )
    return _common(lengths)


def _common(values: list) -> Any:
    """Return the value that occurs most often; the first of several."""
    return Counter(values).most_common(1)[0][0]


def _count(shapes: Shapes, prefix: str) -> int:
    """Return one more than the largest number that follows `prefix` in a name; 0 without any."""
    found = (re.match(rf"{re.escape(prefix)}\.(\d{{1,3}})\.", name) for name in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _head(shapes: Shapes, head_channels: int | None) -> int:
    widths = sorted(
        {
            shape[0]
            for name, shape in shapes.items()
            if name.endswith(".attn1.to_q.weight") and shape
        }
    )
    head = HEAD if head_channels is None else head_channels
    if head >= 1 and all(width % head == 0 for width in widths):
        return head
    given = (
        f"heads of {HEAD} channels do not divide"
        if head_channels is None
        else f"--head-channels {head} does not divide"
    )
    raise InputError(
        f"{given} its attention widths {', '.join(map(str, widths))}; give the right"
        " --head-channels, because the shapes of the weights do not show it"
    )
