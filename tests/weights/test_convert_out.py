"""Test the export of converted checkpoints by `cv3jax convert`.

The tensors come out bit by bit, and PyTorch's libraries compute the same with them.
"""

import golden_models
import ml_dtypes
import numpy as np
import pytest
from golden import arrays, meta
from released_files import (
    FLAGS,
    RELATIVE,
    cast,
    converted,
    prefixed,
    relative,
    same_bits,
    sat_module,
    stored,
    tensors,
    write,
    write_sat,
)
from safetensors.numpy import load_file


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_sat_in_and_out_is_the_same_bits(dtype, tmp_path):
    pytest.importorskip("torch")
    given = prefixed(cast(tensors("unet.safetensors"), dtype))
    inside = converted(tmp_path / "in", "--unet", write_sat(tmp_path / "sat", given), *FLAGS)
    out = converted(tmp_path / "out", "--checkpoint", inside, "--to", "sat")
    assert same_bits(sat_module(out / "base" / "1" / "mp_rank_00_model_states.pt"), given)
    again = converted(tmp_path / "again", "--unet", out / "base", *FLAGS)
    assert same_bits(stored(again, "base"), stored(inside, "base"))


def test_bfloat16_in_and_out_of_safetensors_is_the_same_bits(tmp_path):
    given = prefixed(cast(tensors("unet.safetensors"), ml_dtypes.bfloat16))
    inside = converted(tmp_path / "in", "--unet", write(tmp_path / "u.safetensors", given), *FLAGS)
    out = converted(tmp_path / "out", "--checkpoint", inside, "--to", "safetensors")
    assert same_bits(load_file(out / "base.safetensors"), given)


def test_all_parts_come_out_and_go_in_again(tmp_path):
    source = golden_models.converted("micro")
    out = converted(
        tmp_path / "out", "--checkpoint", source, "--to", "safetensors", "--parts", "relay,vae,t5"
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "relay.safetensors",
        "t5",
        "vae.safetensors",
    ]
    files = (
        "--relay",
        out / "relay.safetensors",
        "--vae",
        out / "vae.safetensors",
        "--t5",
        out / "t5",
    )
    again = converted(tmp_path / "again", *files, *FLAGS)
    for part in ("relay", "vae", "t5"):
        assert same_bits(stored(again, part), stored(source, part))


@pytest.mark.parametrize("preset", ["micro", "tiny", "tiny2"])
def test_diffusers_and_transformers_compute_the_same(preset, tmp_path):
    """The outputs are compared with the tensors of the released code in float32."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from transformers import T5EncoderModel

    out = converted(
        tmp_path / "out",
        "--checkpoint",
        golden_models.converted(preset),
        "--to",
        "diffusers",
        "--parts",
        "base,vae,t5",
    )
    g = {
        name: torch.from_numpy(value)
        for name, value in arrays(preset).items()
        if value.dtype != object
    }
    load = {"low_cpu_mem_usage": False}
    unet = diffusers.UNet2DConditionModel.from_pretrained(out / "base", **load).eval()
    vae = diffusers.AutoencoderKL.from_pretrained(out / "vae", **load).eval()
    t5 = T5EncoderModel.from_pretrained(out / "text_encoder").eval()
    cases = ["main", "rect", "zeroctx"] + (
        ["scale"] if meta(preset)["preset_config"]["cfg_dim"] else []
    )
    with torch.no_grad():
        for case in cases:
            at = f"unet.{case}"
            added = {
                "text_embeds": torch.zeros(len(g[f"{at}.x"]), 0),
                "time_ids": g[f"{at}.sizes6"],
            }
            made = unet(
                g[f"{at}.x"],
                g[f"{at}.timesteps"],
                g[f"{at}.context"],
                added_cond_kwargs=added,
                timestep_cond=g.get(f"{at}.scale_emb"),
            ).sample
            assert relative(made, arrays(preset)[f"{at}.out"]) <= RELATIVE
        assert (
            relative(
                vae.encode(g["vae.image"]).latent_dist.parameters, arrays(preset)["vae.moments"]
            )
            <= RELATIVE
        )
        made = vae.decode(g["vae.z"] / vae.config.scaling_factor).sample
        assert relative(made, arrays(preset)["vae.decode_first_stage"]) <= RELATIVE
        assert (
            relative(t5(g["t5.input_ids"]).last_hidden_state, arrays(preset)["t5.out_nomask"])
            <= RELATIVE
        )
