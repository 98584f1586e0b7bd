"""Test names with prefixes or insertions of trainers and wrappers."""

import numpy as np
import pytest

from cv3jax.checkpoints.streaming import Leaf
from cv3jax.weights.names import t5_entries, unet_entries, vae_entries
from cv3jax.weights.select_model import PREFIX, pick
from cv3jax.weights.torch_file import open_torch
from data_pipeline.io.errors import InputError

SIZES = {"channels": 4, "channel_mult": (1, 2), "res_blocks": 1}
NAMES = {
    "unet": [e.torch for e in unet_entries(**SIZES, depth=(0, 1), mid_depth=1, w_dim=0)],
    "vae": [e.torch for e in vae_entries(**SIZES)],
    "t5": [e.torch for e in t5_entries(layers=2)],
}


def leaves(names):
    return {
        name: Leaf((1,), np.dtype(np.float32), lambda: np.zeros(1, np.float32)) for name in names
    }


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "model_ema.",
        "unet.",
        "module._orig_mod.",
        "_fsdp_wrapped_module.",
        "student.",
        "generator.model.",
        "model.text_encoder.",
        "module.model.diffusion_model.",
        "",
    ],
)
def test_any_prefix_is_read(prefix, kind):
    own, others, found = pick(leaves(prefix + name for name in NAMES[kind]), kind, "--flag f.pt")
    assert list(own) == NAMES[kind]
    assert others == {}
    assert found in prefix
    assert "_orig_mod" not in found


@pytest.mark.parametrize("kind", NAMES)
def test_wrappers_inside_names_are_left_out(kind):
    def wrapped(name):
        first, _, rest = name.partition(".")
        return f"{PREFIX[kind]}{first}._orig_mod._checkpoint_wrapped_module.{rest}"

    own, _, found = pick(leaves(map(wrapped, NAMES[kind])), kind, "--flag f.pt")
    assert list(own) == NAMES[kind]
    assert found == PREFIX[kind]


def test_an_average_beside_the_model_is_named_and_not_taken():
    names = NAMES["unet"]
    tensors = leaves([f"net.{n}" for n in names] + [f"ema.net.{n}" for n in names] + ["loss.x"])
    own, others, found = pick(tensors, "unet", "--unet f.pt")
    assert list(own) == names
    assert (found, others) == ("net.", {"ema.": len(names), "loss.": 1})


def test_two_of_a_kind_are_named():
    tensors = leaves([f"a.{n}" for n in NAMES["vae"]] + [f"b.{n}" for n in NAMES["vae"]])
    with pytest.raises(InputError, match=r"f\.pt holds 2 autoencoders, under a\., b\.; give"):
        pick(tensors, "vae", "--vae f.pt")
    twice = leaves(NAMES["t5"] + [f"_orig_mod.{name}" for name in NAMES["t5"]])
    with pytest.raises(InputError, match=f"holds {len(NAMES['t5'])} tensors twice"):
        pick(twice, "t5", "--t5 f.pt")


def test_what_is_in_no_model_is_listed_under_its_own_name():
    with pytest.raises(InputError, match=r"holds no autoencoder, only .*conditioner\.\*"):
        pick(leaves(["conditioner.x", "denoiser.y"]), "vae", "--vae f.pt")


def test_tensors_under_a_name_that_is_not_known_are_named(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {"a": torch.zeros(2)}
    for names in (("model_ema",), ("model", "ema"), ("generator", "discriminator", "optimizer")):
        torch.save({"step": 7, **dict.fromkeys(names, tensors)}, tmp_path / "c.pt")
        said = f"but under {', '.join(map(repr, names))}; save one of these by itself"
        with pytest.raises(InputError, match=said):
            open_torch(tmp_path / "c.pt")
