"""Test how released checkpoints are recognised by names and shapes.

Sizes are inferred, and every tensor has one place, in both directions.
"""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from cv3jax.cascade.parts import model_shapes
from cv3jax.checkpoints.streaming import Leaf
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from cv3jax.weights.diffusers import unet_names, vae_names
from cv3jax.weights.infer_sizes import t5_fields, text_width, unet_fields, vae_fields
from cv3jax.weights.mapping import check_tensors, stack, torch_shapes
from cv3jax.weights.names import t5_entries, unet_entries, vae_entries
from data_pipeline.io.errors import InputError

MANIFEST = json.loads((Path(__file__).parents[1] / "golden" / "manifest_full.json").read_text())
RELEASED = {
    "channels": 320,
    "channel_mult": (1, 2, 4),
    "res_blocks": 2,
    "depth": (0, 2, 10),
    "mid_depth": 10,
    "head_dim": 64,
    "out_channels": 4,
}
W_DIMS = {
    "cogview3_base": 0,
    "cogview3_relay": 0,
    "cogview3_base_distill_4step": 512,
    "cogview3_relay_distill_1step": 256,
}


def shapes(model: str) -> dict[str, tuple[int, ...]]:
    facts = MANIFEST[model]
    params = facts["params"]
    # three of the UNets are written as what they have beside the first
    if "extra_vs_base" in facts:
        params = {**MANIFEST["cogview3_base"]["params"], **facts["extra_vs_base"]}
    assert len(params) == facts["n_tensors"]
    return {
        name.removeprefix("model.diffusion_model."): tuple(shape) for name, shape in params.items()
    }


def covered(model: str, params, entries, wanted: dict) -> None:
    """Check that tensors and parameters cover each other.

    Every tensor has a place of its shape, every parameter is made of tensors, and each shape
    follows from the other.
    """
    assert torch_shapes(params, entries) == wanted
    tensors = {
        name: Leaf(shape, np.dtype(np.float16), lambda: pytest.fail("nothing is to be read"))
        for name, shape in wanted.items()
    }
    ours = stack(tensors, entries)
    assert jax.tree.map(lambda leaf: leaf.shape, ours) == jax.tree.map(
        lambda leaf: leaf.shape, params
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == MANIFEST[model]["total_params"]


@pytest.mark.parametrize("model", W_DIMS)
def test_the_four_released_unets(model):
    wanted = shapes(model)
    fields = unet_fields(wanted)
    assert fields == {**RELEASED, "w_dim": W_DIMS[model]}
    assert text_width(wanted) == 4096
    covered(model, model_shapes(UNet(**fields), 4096), unet_entries(**sizes(fields)), wanted)


def sizes(fields: dict) -> dict:
    """Return what the table of names needs of a UNet's fields."""
    return {
        name: value for name, value in fields.items() if name not in ("head_dim", "out_channels")
    }


def test_the_released_autoencoder():
    wanted = shapes("sdxl_vae")
    fields = vae_fields(wanted)
    assert fields == {
        "channels": 128,
        "channel_mult": (1, 2, 4, 4),
        "res_blocks": 2,
        "z_channels": 4,
    }
    entries = vae_entries(**{name: value for name, value in fields.items() if name != "z_channels"})
    covered("sdxl_vae", model_shapes(Autoencoder(**fields)), entries, wanted)


def test_the_text_encoder_of_the_release():
    wanted = shapes("t5_v1_1_xxl_encoder")
    # the same tensor a second time
    assert wanted.pop("encoder.embed_tokens.weight", (32128, 4096)) == wanted["shared.weight"]
    fields = t5_fields(wanted)
    assert fields == {
        "vocab": 32128,
        "channels": 4096,
        "layers": 24,
        "heads": 64,
        "head_dim": 64,
        "ff": 10240,
        "buckets": 32,
    }
    covered("t5_v1_1_xxl_encoder", model_shapes(T5Encoder(**fields)), t5_entries(layers=24), wanted)


def test_what_shapes_do_not_tell_has_to_be_given():
    narrow = {
        name: tuple(x // 2 if x in (640, 1280) else x for x in shape)
        for name, shape in shapes("cogview3_base").items()
    }
    odd = {
        name: (48, *shape[1:]) if name.endswith("attn1.to_q.weight") else shape
        for name, shape in narrow.items()
    }
    with pytest.raises(
        InputError,
        match="heads of 64 channels do not divide its attention widths 48; give the right",
    ):
        unet_fields(odd)
    assert unet_fields(odd, head_channels=16)["head_dim"] == 16
    with pytest.raises(InputError, match="--head-channels 32 does not divide"):
        unet_fields(odd, head_channels=32)


def test_a_tensor_of_a_wrong_shape_does_not_make_another_model():
    """Most tensors agree on the sizes, so a wrong one can be named."""
    wanted = shapes("cogview3_base")
    for name in (
        "input_blocks.0.0.weight",
        "input_blocks.4.0.out_layers.3.weight",
        "out.2.weight",
        "time_embed.0.weight",
    ):
        damaged = {**wanted, name: tuple(size + 1 for size in wanted[name])}
        assert unet_fields(damaged) == unet_fields(wanted)
        with pytest.raises(
            InputError,
            match=(
                f"0 tensors missing, 0 unexpected, 1 of another shape: {re.escape(name)} has the"
                " shape"
            ),
        ):
            check_tensors(damaged, wanted, "U")
        assert unet_fields(
            {other: shape for other, shape in wanted.items() if other != name}
        ) == unet_fields(wanted)


def test_every_name_that_does_not_fit_is_counted_and_the_first_are_listed():
    wanted = shapes("cogview3_base")
    names = list(wanted)
    given = {name: shape for name, shape in wanted.items() if name not in names[:15]} | {
        "a.b": (1,),
        names[20]: (7,),
    }
    given |= {f"x.{i}": (1,) for i in range(10)}
    with pytest.raises(InputError) as caught:
        check_tensors(given, wanted, "--base U")
    line = str(caught.value)
    counts = "15 tensors missing, 11 unexpected, 1 of another shape"
    assert line.startswith(f"--base U does not fit: {counts}: time_embed.0.weight is missing, ")
    assert line.endswith(" is missing (the first 5 of 27)")
    assert line.count(" is missing") == 5


def test_names_of_another_model_are_refused():
    with pytest.raises(InputError, match=r"there is no tensor encoder\.conv_in"):
        vae_fields(shapes("cogview3_base"))
    with pytest.raises(InputError, match=r"there is no tensor time_embed\.0\.weight"):
        unet_fields(shapes("sdxl_vae"))
    with pytest.raises(InputError, match=r"there is no .*relative_attention_bias"):
        t5_fields(shapes("sdxl_vae"))


def test_diffusers_names_are_each_another():
    """There are as many names as tensors, and none of sgm's is left.

    Tests with PyTorch check that they are the right ones.
    """
    fields = unet_fields(shapes("cogview3_base_distill_4step"))
    entries = unet_entries(**sizes(fields))
    names = {entry.torch for entry in unet_names(entries, len(fields["channel_mult"]))}
    assert len(names) == len(entries)
    assert not any(
        part in name for name in names for part in ("_blocks.0.0", "layers", "emb.", "middle")
    )
    vae = vae_entries(channels=128, channel_mult=(1, 2, 4, 4), res_blocks=2)
    renamed = {entry.torch for entry in vae_names(vae, 4)}
    assert len(renamed) == len(vae)
    assert not any(
        part in name for name in renamed for part in (".mid.", ".down.", ".up.", "nin_", "attn_1")
    )
