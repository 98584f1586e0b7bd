"""Test that an unsuitable `init_from` is refused with the fields that differ."""

import dataclasses

import pytest

from cv3jax.cascade.parts import build_model, model_shapes, part_loader
from cv3jax.checkpoints import cascades
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
CASCADE = " its latents or text features are of another width, give the --config.cascade it was"


@pytest.mark.parametrize(
    ("part", "theirs", "ours", "said"),
    [
        # what a converted one does not say
        ("vae", {}, {"patch": 2}, "patch is 1 there and 2 here; give --config.model.patch=1"),
        ("vae", {}, {"mid_attention": False}, "mid_attention is True there and False here; give"),
        ("vae", {}, {"groups": 0}, "groups is 32 there and 0 here; give"),
        ("vae", {"patch": 2}, {"patch": 4, "z_channels": 8}, "patch is 2 .*z_channels is 4 there"),
        ("base", {}, {"w_dim": 16}, "w_dim is 0 there and 16 here; give --config.model.w_dim=0"),
        ("base", {"w_dim": 16}, {"w_dim": 0}, "w_dim is 16 there and 0 here; it is distilled"),
        ("base", {}, {"depth": (0,)}, r"depth is \(1,\) there and \(0,\) here"),
        # what config.model has no field of
        ("base", {"out_channels": 8}, {}, rf"bias is \(8,\) there and \(4,\) here;{CASCADE}"),
        ("base", {}, {"text_width": 32}, rf"16, 32\) there and \(1, 32, 32\) here;{CASCADE}"),
    ],
)
def test_sizes_that_do_not_fit(part, theirs, ours, said, tmp_path):
    _, description = cascades.read_cascade("scenes")
    t5 = {**description.t5.model, "channels": 16}
    stage = description.stages["base"]
    description = dataclasses.replace(
        description,
        vae=dataclasses.replace(description.vae, model=VAE | theirs),
        t5=dataclasses.replace(description.t5, model=t5),
        stages={"base": dataclasses.replace(stage, model=UNET | theirs, text_width=16)},
    )
    cascades.write_cascade(tmp_path, description)
    width = ours.get("text_width", 16)
    mine = (VAE if part == "vae" else UNET) | {
        name: value for name, value in ours.items() if name != "text_width"
    }
    shapes = model_shapes(build_model(Autoencoder if part == "vae" else UNet, mine), width)
    with pytest.raises(InputError, match=f"init_from = .* differs from config.model: .*{said}"):
        part_loader(str(tmp_path), part, mine)(shapes, None)
