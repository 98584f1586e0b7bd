"""Map tensors of a released checkpoint to our parameters: one table per model, for both directions.

The names are those of the public CogView3 release (UNet and autoencoder as in `sgm`, T5 as in
`transformers`).
"""

from typing import NamedTuple

GROUPS = 32  # of every norm in sgm's models


class Entry(NamedTuple):
    """One tensor: its torch name, our path, how its layout changes, and its layer.

    layer: its place in a scanned stack; None where it is not stacked.
    """

    torch: str
    path: tuple[str, ...]
    layout: str  # "conv" OIHW ↔ HWIO, "dense" OI ↔ IO, "conv_dense" OI11 ↔ IO, "same"
    layer: int | None = None


def _layer(
    torch: str, path: tuple[str, ...], layout: str, layer: int | None = None, bias: bool = True
) -> list[Entry]:
    """Return weight and bias of a convolution or a dense layer."""
    entries = [Entry(f"{torch}.weight", (*path, "kernel"), layout, layer)]
    return [*entries, Entry(f"{torch}.bias", (*path, "bias"), "same", layer)] if bias else entries


def _norm(torch: str, path: tuple[str, ...], layer: int | None = None) -> list[Entry]:
    return [
        Entry(f"{torch}.weight", (*path, "scale"), "same", layer),
        Entry(f"{torch}.bias", (*path, "bias"), "same", layer),
    ]


def _unet_res_block(torch: str, path: tuple[str, ...], skip: bool) -> list[Entry]:
    entries = [
        *_norm(f"{torch}.in_layers.0", (*path, "norm_in")),
        *_layer(f"{torch}.in_layers.2", (*path, "conv_in"), "conv"),
        *_layer(f"{torch}.emb_layers.1", (*path, "emb"), "dense"),
        *_norm(f"{torch}.out_layers.0", (*path, "norm_out")),
        *_layer(f"{torch}.out_layers.3", (*path, "conv_out"), "conv"),
    ]
    return entries + (_layer(f"{torch}.skip_connection", (*path, "skip"), "conv") if skip else [])


def _spatial_transformer(torch: str, path: tuple[str, ...], depth: int) -> list[Entry]:
    entries = [
        *_norm(f"{torch}.norm", (*path, "norm")),
        *_layer(f"{torch}.proj_in", (*path, "proj_in"), "dense"),
    ]
    for i in range(depth):
        block, ours = f"{torch}.transformer_blocks.{i}", (*path, "blocks")
        for theirs, name in (("attn1", "self_attention"), ("attn2", "cross_attention")):
            for x in "qkv":
                entries += _layer(
                    f"{block}.{theirs}.to_{x}", (*ours, name, x), "dense", i, bias=False
                )
            entries += _layer(f"{block}.{theirs}.to_out.0", (*ours, name, "out"), "dense", i)
        entries += _layer(f"{block}.ff.net.0.proj", (*ours, "ff_in"), "dense", i)
        entries += _layer(f"{block}.ff.net.2", (*ours, "ff_out"), "dense", i)
        for theirs, name in (("norm1", "norm_self"), ("norm2", "norm_cross"), ("norm3", "norm_ff")):
            entries += _norm(f"{block}.{theirs}", (*ours, name), i)
    return entries + _layer(f"{torch}.proj_out", (*path, "proj_out"), "dense")


def unet_entries(
    *,
    channels: int,
    channel_mult: tuple[int, ...],
    res_blocks: int,
    depth: tuple[int, ...],
    mid_depth: int,
    w_dim: int,
) -> list[Entry]:
    """Return every tensor of a UNet of these sizes (the fields of `models.unet.UNet`)."""
    entries = [
        *_layer("time_embed.0", ("time_in",), "dense"),
        *_layer("time_embed.2", ("time_out",), "dense"),
        *_layer("label_emb.0.0", ("size_in",), "dense"),
        *_layer("label_emb.0.2", ("size_out",), "dense"),
        *_layer("input_blocks.0.0", ("conv_in",), "conv"),
    ]
    if w_dim:
        entries += _layer("w_proj", ("w_proj",), "dense", bias=False)
    last = len(channel_mult) - 1
    skips, width, index = [channels], channels, 1
    for stage, mult in enumerate(channel_mult):
        for i in range(res_blocks):
            name = f"down_{stage}_{i}"
            entries += _unet_res_block(
                f"input_blocks.{index}.0", (name,), skip=width != channels * mult
            )
            if depth[stage]:
                entries += _spatial_transformer(
                    f"input_blocks.{index}.1", (f"{name}_transformer",), depth[stage]
                )
            width, index = channels * mult, index + 1
            skips.append(width)
        if stage < last:
            entries += _layer(f"input_blocks.{index}.0.op", (f"down_{stage}_sample",), "conv")
            index += 1
            skips.append(width)
    entries += _unet_res_block("middle_block.0", ("mid_0",), skip=False)
    if mid_depth:
        entries += _spatial_transformer("middle_block.1", ("mid_0_transformer",), mid_depth)
    entries += _unet_res_block(f"middle_block.{2 if mid_depth else 1}", ("mid_1",), skip=False)
    index = 0
    for stage in range(last, -1, -1):
        for i in range(res_blocks + 1):
            name, out = f"up_{stage}_{i}", channels * channel_mult[stage]
            entries += _unet_res_block(
                f"output_blocks.{index}.0", (name,), skip=width + skips.pop() != out
            )
            if depth[stage]:
                entries += _spatial_transformer(
                    f"output_blocks.{index}.1", (f"{name}_transformer",), depth[stage]
                )
            if stage and i == res_blocks:
                entries += _layer(
                    f"output_blocks.{index}.{2 if depth[stage] else 1}.conv",
                    (f"up_{stage}_sample",),
                    "conv",
                )
            width, index = out, index + 1
    return entries + _norm("out.0", ("norm_out",)) + _layer("out.2", ("conv_final",), "conv")


def _vae_res_block(torch: str, path: tuple[str, ...], skip: bool) -> list[Entry]:
    entries = [
        *_norm(f"{torch}.norm1", (*path, "norm_in")),
        *_layer(f"{torch}.conv1", (*path, "conv_in"), "conv"),
        *_norm(f"{torch}.norm2", (*path, "norm_out")),
        *_layer(f"{torch}.conv2", (*path, "conv_out"), "conv"),
    ]
    return entries + (_layer(f"{torch}.nin_shortcut", (*path, "skip"), "conv") if skip else [])


def _vae_middle(torch: str, path: tuple[str, ...]) -> list[Entry]:
    entries = [
        *_vae_res_block(f"{torch}.block_1", (*path, "res_0"), False),
        *_vae_res_block(f"{torch}.block_2", (*path, "res_1"), False),
    ]
    entries += _norm(f"{torch}.attn_1.norm", (*path, "attention", "norm"))
    for theirs, name in (("q", "q"), ("k", "k"), ("v", "v"), ("proj_out", "out")):
        entries += _layer(f"{torch}.attn_1.{theirs}", (*path, "attention", name), "conv_dense")
    return entries


def vae_entries(
    *,
    channels: int,
    channel_mult: tuple[int, ...],
    res_blocks: int,
    norms: bool = True,
    attention: bool = True,
) -> list[Entry]:
    """Return every tensor of an autoencoder of these sizes, by default of SDXL's kind.

    norms, attention: whether it has norms, and attention in the middle.
    """
    entries = [
        *_layer("quant_conv", ("quant",), "conv"),
        *_layer("post_quant_conv", ("post_quant",), "conv"),
    ]
    for side in ("encoder", "decoder"):
        entries += _layer(f"{side}.conv_in", (side, "conv_in"), "conv") + _vae_middle(
            f"{side}.mid", (side, "mid")
        )
        entries += _norm(f"{side}.norm_out", (side, "norm_out")) + _layer(
            f"{side}.conv_out", (side, "conv_final"), "conv"
        )
    last, width = len(channel_mult) - 1, channels
    for stage, mult in enumerate(channel_mult):
        for i in range(res_blocks):
            path = ("encoder", f"down_{stage}_{i}")
            entries += _vae_res_block(
                f"encoder.down.{stage}.block.{i}", path, skip=width != channels * mult
            )
            width = channels * mult
        if stage < last:
            entries += _layer(
                f"encoder.down.{stage}.downsample.conv", ("encoder", f"down_{stage}_sample"), "conv"
            )
    for stage in range(last, -1, -1):
        for i in range(res_blocks + 1):
            path = ("decoder", f"up_{stage}_{i}")
            entries += _vae_res_block(
                f"decoder.up.{stage}.block.{i}", path, skip=width != channels * channel_mult[stage]
            )
            width = channels * channel_mult[stage]
        if stage:
            entries += _layer(
                f"decoder.up.{stage}.upsample.conv", ("decoder", f"up_{stage}_sample"), "conv"
            )
    return [
        entry
        for entry in entries
        if (norms or not entry.path[-2].startswith("norm"))
        and (attention or "attention" not in entry.path)
    ]


def t5_entries(*, layers: int) -> list[Entry]:
    """Return every tensor of a T5 v1.1 encoder, with the names of `transformers`."""
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    entries = [
        Entry("shared.weight", ("embed", "embedding"), "same"),
        Entry(bias, ("relative_bias",), "same"),
        Entry("encoder.final_layer_norm.weight", ("norm_out", "scale"), "same"),
    ]
    for i in range(layers):
        attention, feed = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        for theirs, name in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out")):
            entries += _layer(
                f"{attention}.SelfAttention.{theirs}", ("layers", name), "dense", i, bias=False
            )
        for theirs, name in (("wi_0", "ff_gate"), ("wi_1", "ff_in"), ("wo", "ff_out")):
            entries += _layer(
                f"{feed}.DenseReluDense.{theirs}", ("layers", name), "dense", i, bias=False
            )
        entries.append(
            Entry(
                f"{attention}.layer_norm.weight", ("layers", "norm_attention", "scale"), "same", i
            )
        )
        entries.append(
            Entry(f"{feed}.layer_norm.weight", ("layers", "norm_ff", "scale"), "same", i)
        )
    return entries
