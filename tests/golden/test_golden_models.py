"""Test that the networks and their parts compute what the released PyTorch ones compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import ROOT, reads
from golden_models import (
    LATENT_SCALE,
    call,
    decode,
    network,
    our_path,
    run_module,
    text_features,
    unet,
    vae,
    vae_function,
)

from cv3jax.diffusion.denoiser import null
from cv3jax.diffusion.pixels import down2, up2
from cv3jax.models.embeddings import guidance_embedding, size_embedding
from cv3jax.models.layers import upsample_nearest
from cv3jax.models.t5 import relative_bucket
from cv3jax.models.vae import clamp_logvar, posterior_sample
from data_pipeline.loading.tokenizer import load_tokenizer


@reads("unet.{}.*", case=("main", "rect", "zeroctx", "scale"))
def test_unet(g, case):
    cond = {"text": g[f"unet.{case}.context"], "vector": g[f"unet.{case}.y"]}
    g.check(f"unet.{case}.y", size_embedding(g[f"unet.{case}.sizes6"]))
    if case == "scale":
        cond["w"] = g["unet.scale.scale_emb"]
        g.check("unet.scale.scale_emb", guidance_embedding(g["unet.scale.scale_w"], 512))
    if case == "zeroctx":
        assert not cond["text"].any()
    out = network(g.preset)(
        unet(g.preset)[1], g.nhwc(f"unet.{case}.x"), g[f"unet.{case}.timesteps"], cond
    )
    g.check_nhwc(f"unet.{case}.out", out)


def run_unet_module(g, case, *inputs):
    """Run a module of the golden UNet alone on its own inputs."""
    model, params, entries = unet(g.preset)
    cond = {
        "text": jnp.zeros((1, 1, g.meta["preset_config"]["unet"]["context_dim"])),
        "vector": jnp.zeros((1, 1536)),
    }
    path = our_path(g.meta["modules"][case].removeprefix("model.diffusion_model."), entries)
    return run_module(
        model, params, path, (jnp.zeros((1, 8, 8, 4)), jnp.zeros(1, jnp.int32), cond), inputs
    )


@reads("mod.{}.*", case=("resblock", "resblock_wide"))
def test_unet_res_block(g, case):
    g.check_nhwc(
        f"mod.{case}.out", run_unet_module(g, case, g.nhwc(f"mod.{case}.x"), g[f"mod.{case}.emb"])
    )


@reads("mod.{}.*", case=("spatial", "mid_spatial"))
def test_unet_transformer(g, case):
    g.check_nhwc(
        f"mod.{case}.out",
        run_unet_module(g, case, g.nhwc(f"mod.{case}.x"), g[f"mod.{case}.context"]),
    )


@reads("mod.downsample.*")
def test_unet_downsample(g):
    g.check_nhwc("mod.downsample.out", run_unet_module(g, "downsample", g.nhwc("mod.downsample.x")))


@reads("mod.upsample.*")
def test_unet_upsample(g):
    g.check_nhwc(
        "mod.upsample.out",
        run_unet_module(g, "upsample", upsample_nearest(g.nhwc("mod.upsample.x"))),
    )


@reads("mod.{}.*", case=("vae_resnet", "vae_attn"))
def test_vae_module(g, case):
    model, params, entries = vae(g.preset)
    path = our_path(g.meta["modules"][case], entries)
    g.check_nhwc(
        f"mod.{case}.out",
        run_module(model, params, path, (jnp.zeros((1, 16, 16, 3)),), (g.nhwc(f"mod.{case}.x"),)),
    )


def encoder_and_posterior(model, pixels):
    return model.encoder(pixels), *model.encode(pixels)


@reads("vae.*")
def test_vae(g):
    features, mean, logvar = call(
        vae_function(g.preset, encoder_and_posterior), vae(g.preset)[1], g.nhwc("vae.image")
    )
    g.check_nhwc("vae.encoder_out", features)
    g.check_nhwc("vae.moments", np.concatenate([mean, logvar], axis=-1))
    g.check_nhwc("vae.mode", mean)
    sample = posterior_sample(mean, logvar, g.nhwc("vae.sample_noise"))
    g.check_nhwc("vae.sample", sample)
    g.check_nhwc("vae.latent", LATENT_SCALE * sample)
    g.check_nhwc("vae.decode_mode", decode(g.preset, LATENT_SCALE * mean))
    g.check_nhwc("vae.decode_first_stage", decode(g.preset, g.nhwc("vae.z")))


@reads("dgd.*")
def test_posterior_clamps_the_log_variance(g):
    mean, logvar = jnp.split(g.nhwc("dgd.moments"), 2, axis=-1)
    g.check_nhwc("dgd.mean", mean)
    g.check_nhwc("dgd.logvar", clamp_logvar(logvar))
    g.check_nhwc(
        "dgd.std_f64",
        posterior_sample(jnp.zeros_like(mean), clamp_logvar(logvar), jnp.ones_like(mean)),
    )


@reads("interp.*")
def test_resize_by_two(g):
    down, lr, up = jax.jit(lambda x: (down2(x), up2(down2(x)), up2(x)))(g.nhwc("interp.image"))
    g.check_nhwc("interp.down", down)
    g.check_nhwc("interp.lr", lr)
    g.check_nhwc("interp.inference_up2", up)


def test_odd_sides_cannot_be_halved():
    with pytest.raises(ValueError, match="must be even to be halved, not 3×4"):
        down2(jnp.zeros((1, 3, 4, 1)))


@reads("t5.*")
def test_t5(g):
    tokens, mask = g["t5.input_ids"], g["t5.attention_mask"]
    g.check("t5.out_nomask", text_features(g.preset, tokens))
    g.check("t5.out_mask", text_features(g.preset, tokens, mask > 0))


def test_t5_buckets_at_their_edges():
    """The first distance of each bucket is computed in whole numbers.

    Bucket 8 + j begins where (m/8)^8 ≥ 16^j.
    """
    edges = [*range(8), *(next(m for m in range(8, 129) if m**8 >= 16**j * 8**8) for j in range(8))]
    distance = np.arange(-300, 301)
    wanted = np.searchsorted(edges, np.abs(distance), side="right") - 1 + 16 * (distance > 0)
    np.testing.assert_array_equal(relative_bucket(distance, 32, 128), wanted)


@reads("text.*")
def test_text_from_prompts_to_features(g):
    tokens = load_tokenizer(ROOT / g.preset / "t5", 225)(g.meta["prompts"])
    g.check("text.input_ids", tokens)
    g.check("text.emb", text_features(g.preset, tokens))


@reads("cond.*", "text.input_ids")
def test_conditions_and_their_null(g):
    # the released order
    sizes = np.concatenate([g["cond.original_size"], g["cond.crop"], g["cond.target_size"]])
    cond = {
        "text": text_features(g.preset, g["text.input_ids"])[1:3],
        "vector": size_embedding(np.tile(sizes, (2, 1))),
    }
    for name, ours in (("c", cond), ("uc", null(cond))):
        g.check(f"cond.{name}.crossattn", ours["text"])
        g.check(f"cond.{name}.vector", ours["vector"])
