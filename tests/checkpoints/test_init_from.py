"""Test that an unsuitable `init_from` is refused with the fields that differ."""

import dataclasses

import pytest

from cv3jax.cascade.parts import build_model, model_shapes, part_loader
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from data_pipeline.io.errors import InputError

VAE = {"channels": 32, "channel_mult": [1, 1], "res_blocks": 1, "z_channels": 4}
UNET = {
    "channels": 32,
    "channel_mult": [1],
    "res_blocks": 1,
    "depth": [1],
    "mid_depth": 0,
    "head_dim": 16,
}
CASCADE = (
    " although all fields agree; the checkpoint was trained on latents or text features of another"
    " width, so give its own cascade as --config.cascade"
)


@pytest.mark.parametrize(
    ("part", "theirs", "ours", "said"),
    [
        # what a converted one does not say
        (
            "vae",
            {},
            {"patch": 2},
            "patch is 1 in the checkpoint and 2 in the recipe; give --config.model.patch=1",
        ),
        (
            "vae",
            {},
            {"mid_attention": False},
            "mid_attention is True in .* and False in the recipe; give",
        ),
        ("vae", {}, {"groups": 0}, "groups is 32 in the checkpoint and 0 in the recipe; give"),
        (
            "vae",
            {"patch": 2},
            {"patch": 4, "z_channels": 8},
            "patch is 2 .*z_channels is 4 in the checkpoint",
        ),
        ("base", {}, {"w_dim": 16}, "w_dim is 0 in .* and 16 in .*; give --config.model.w_dim=0"),
        (
            "base",
            {"w_dim": 16},
            {"w_dim": 0},
            "w_dim is 16 in .* and 0 in .*; the checkpoint is distilled",
        ),
        ("base", {}, {"depth": (0,)}, r"depth is \(1,\) in .* and \(0,\) in the recipe"),
        # what config.model has no field of
        (
            "base",
            {"out_channels": 8},
            {},
            rf"bias is \(8,\) in .* and \(4,\) in this run,{CASCADE}",
        ),
        (
            "base",
            {},
            {"text_width": 32},
            rf"16, 32\) in .* and \(1, 32, 32\) in this run,{CASCADE}",
        ),
    ],
)
def test_sizes_that_do_not_fit(part, theirs, ours, said, tmp_path):
    _, description = cascades.read_cascade("scenes")
    t5 = {**description.t5.model, "channels": 16}
    vae, stage = description.vae, description.stages["base"]
    if part == "vae":
        vae, stages = dataclasses.replace(vae, model=VAE | theirs), {}
    else:
        stage = dataclasses.replace(stage, model=UNET | theirs, text_width=16)
        vae, stages = None, {"base": stage}
    t5 = dataclasses.replace(description.t5, model=t5)
    cascades.write_cascade(tmp_path, CascadeDescription(vae, t5, stages))
    width = ours.get("text_width", 16)
    mine = (VAE if part == "vae" else UNET) | {
        name: value for name, value in ours.items() if name != "text_width"
    }
    shapes = model_shapes(build_model(Autoencoder if part == "vae" else UNet, mine), width)
    with pytest.raises(InputError, match=f"init_from = .* differs from config.model: .*{said}"):
        part_loader(str(tmp_path), part, mine)(shapes, None)
