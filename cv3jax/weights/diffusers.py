"""Names and configurations of the `diffusers` library for the same tensors.

Its models are UNet2DConditionModel and AutoencoderKL. The text encoder is transformers'.
"""

import re
from typing import Any

import jax.numpy as jnp

from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from cv3jax.weights.names import Entry
from data_pipeline.io.errors import InputError, first_line

VERSION = "0.36.0"  # the oldest with which its files were loaded
FILE = "diffusion_pytorch_model.safetensors"
_RES_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ENDS = {
    "time_in": "time_embedding.linear_1",
    "time_out": "time_embedding.linear_2",
    "size_in": "add_embedding.linear_1",
    "size_out": "add_embedding.linear_2",
    "w_proj": "time_embedding.cond_proj",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_final": "conv_out",
}
# sgm's name of an autoencoder's module → diffusers'; there `up` counts stages from the other end
_VAE = (
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.down\.(\d+)\.block\.(\d+)\.", r".down_blocks.\1.resnets.\2."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.(\d+)\.", r".up_blocks.\1.resnets.\2."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
)


def unet_names(entries: list[Entry], stages: int) -> list[Entry]:
    """Return `names.unet_entries` with diffusers' names."""
    return [entry._replace(torch=_unet_name(entry, stages)) for entry in entries]


def _unet_name(entry: Entry, stages: int) -> str:
    kind = entry.torch.rpartition(".")[2]
    block = entry.path[0].removesuffix("_transformer")
    transformer = entry.path[0].endswith("_transformer")
    if block in _ENDS:
        return f"{_ENDS[block]}.{kind}"
    way, stage, index = (*block.split("_"), "")[:3]
    if way == "mid":
        place, index = "mid_block", stage
    else:
        place = f"down_blocks.{stage}" if way == "down" else f"up_blocks.{stages - 1 - int(stage)}"
    if index == "sample":
        return f"{place}.{way}samplers.0.conv.{kind}"
    # below input_blocks.4.1, middle_block.1
    inner = ".".join(entry.torch.split(".")[2 if way == "mid" else 3 :])
    if transformer:
        return f"{place}.attentions.{index}.{inner}"
    return f"{place}.resnets.{index}.{_RES_BLOCK[inner.rpartition('.')[0]]}.{kind}"


def vae_names(entries: list[Entry], stages: int) -> list[Entry]:
    """Return `names.vae_entries` with diffusers' names.

    Its attention has linear layers where sgm has convolutions of one pixel.
    """

    def rename(entry: Entry) -> Entry:
        name = re.sub(r"(?<=\.up\.)\d+", lambda match: str(stages - 1 - int(match[0])), entry.torch)
        for pattern, replacement in _VAE:
            name = re.sub(pattern, replacement, name)
        return entry._replace(
            torch=name, layout="dense" if entry.layout == "conv_dense" else entry.layout
        )

    return [rename(entry) for entry in entries]


def unet_config(model: UNet, text_width: int, side: int | None) -> dict[str, Any]:
    """Return config.json of a UNet that reads text features of that width.

    side: of its latents; None where it is unknown. Call the model with timestep = index (0..999),
    added_cond_kwargs = {"text_embeds": zeros [B, 0], "time_ids": sizes [B, 6] in pixels} and, if
    distilled, timestep_cond = the embedding of w. It predicts what the stage does (ε or v), for x /
    √(1 + σ²).

    Raises:
        InputError: diffusers' middle block is as deep as the last stage, and this one's is not.
    """
    depth, widths = model.depth, [model.channels * mult for mult in model.channel_mult]
    if model.mid_depth != depth[-1] or not depth[-1]:
        raise InputError(
            f"diffusers has no UNet with {model.mid_depth} transformer blocks in the middle and"
            f" {depth[-1]} in the last stage; give --to sat or --to safetensors"
        )
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": VERSION,
        "sample_size": side,
        "in_channels": model.out_channels,
        "out_channels": model.out_channels,
        "block_out_channels": widths,
        "layers_per_block": model.res_blocks,
        "transformer_layers_per_block": [max(blocks, 1) for blocks in depth],
        "down_block_types": [
            "CrossAttnDownBlock2D" if blocks else "DownBlock2D" for blocks in depth
        ],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": [
            "CrossAttnUpBlock2D" if blocks else "UpBlock2D" for blocks in reversed(depth)
        ],
        # diffusers keeps the number of heads under this name
        "attention_head_dim": [max(width // model.head_dim, 1) for width in widths],
        "cross_attention_dim": text_width,
        "use_linear_projection": True,
        "norm_num_groups": model.groups,
        "norm_eps": 1e-5,
        "act_fn": "silu",
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 1536,
        "time_cond_proj_dim": model.w_dim or None,
    }


def vae_config(model: Autoencoder, scale: float) -> dict[str, Any]:
    """Return config.json of an autoencoder."""
    widths = [model.channels * mult for mult in model.channel_mult]
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": VERSION,
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": model.res_blocks,
        "act_fn": "silu",
        "latent_channels": model.z_channels,
        "norm_num_groups": model.groups,
        "scaling_factor": scale,
        "force_upcast": True,
    }


def holds_vae(model: Autoencoder) -> bool:
    """Return whether AutoencoderKL can hold an autoencoder: whether it is of SDXL's kind."""
    return model.patch == 1 and model.mid_attention and model.groups > 0


def patch_vae_config(model: Autoencoder, scale: float) -> dict[str, Any]:
    """Return config.json of an autoencoder that AutoencoderKL cannot hold.

    It is that of `PatchAutoencoder` in `pytorch/`, whose tensors have sgm's names.
    """
    return {
        "_class_name": "PatchAutoencoder",
        "_diffusers_version": VERSION,
        "channels": model.channels,
        "channel_mult": list(model.channel_mult),
        "res_blocks": model.res_blocks,
        "latent_channels": model.z_channels,
        "patch": model.patch,
        "groups": model.groups,
        "mid_attention": model.mid_attention,
        "scaling_factor": scale,
    }


def t5_config(model: T5Encoder) -> dict[str, Any]:
    """Return config.json of a text encoder, for transformers' T5EncoderModel."""
    return {
        "architectures": ["T5EncoderModel"],
        # without it, transformers 5 takes what the first tensors of the file have
        "dtype": jnp.dtype(model.dtype).name,
        "model_type": "t5",
        "d_model": model.channels,
        "d_kv": model.head_dim,
        "d_ff": model.ff,
        "num_layers": model.layers,
        "num_heads": model.heads,
        "vocab_size": model.vocab,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": model.buckets,
        "relative_attention_max_distance": model.max_distance,
        "layer_norm_epsilon": model.epsilon,
        "is_encoder_decoder": False,
        "use_cache": False,
        "dropout_rate": 0.0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def vae_fields(config: dict, where: str) -> tuple[dict[str, Any], float]:
    """Return (fields of `models.vae.Autoencoder`, latent scale) of an AutoencoderKL's config.json.

    Raises InputError on another configuration.
    """
    try:
        widths = [int(width) for width in config["block_out_channels"]]
        fields = {
            "channels": widths[0],
            "channel_mult": tuple(width // widths[0] for width in widths),
            "res_blocks": int(config["layers_per_block"]),
            "z_channels": int(config["latent_channels"]),
            "groups": int(config.get("norm_num_groups", 32)),
        }
        scale = float(config["scaling_factor"])
    except (LookupError, TypeError, ValueError, ArithmeticError) as e:
        raise InputError(
            f"{where} is not the configuration of an AutoencoderKL: {type(e).__name__}"
            f" {first_line(e)}"
        ) from e
    sizes = (*widths, fields["res_blocks"], fields["z_channels"], fields["groups"])
    if (
        len(widths) > 8
        or fields["res_blocks"] > 16
        or not all(1 <= size <= 2**16 for size in sizes)
    ):
        raise InputError(
            f"{where}: block_out_channels, layers_per_block, latent_channels or norm_num_groups"
            " cannot be an autoencoder's"
        )
    if config.get("shift_factor") or config.get("latents_mean"):
        raise InputError(
            f"{where}: this autoencoder shifts its latents (shift_factor, latents_mean); only"
            " scaled latents, as SDXL has them, are supported"
        )
    return fields, scale


def old_attention(name: str) -> str:
    """Return today's name of an AutoencoderKL tensor.

    Files written before diffusers 0.15 have other names for attention layers.
    """
    for old, new in (
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("proj_attn", "to_out.0"),
    ):
        name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
    return name
