"""From a prompt to a PNG and from that PNG to one of twice the side, as the released pipeline does it."""

import jax.numpy as jnp
import numpy as np
from golden import PNG_PIXELS, ROOT, reads
from golden_models import decode, encode, text_features
from test_golden_samplers import run

from cv3jax import sampler
from cv3jax.models.embeddings import size_embedding
from cv3jax.resize import up2
from cv3jax.schedule import base_grid, relay_grid
from data_pipeline.tokenizer import load_tokenizer


def to_uint8(decoded):
    """The release truncates to 8 bits, it does not round."""
    return (255 * np.clip((np.asarray(decoded) + 1) / 2, 0, 1)).astype(np.uint8)


def check_png(g, key, decoded):
    """±1 on at most 0.1 % of pixels, a pixel being off where any of its channels is: so of micro's 2,048 no more than 2.

    Truncation turns the smallest error into 1 where a value is next to a whole number: 127.5 times the mean error of `decoded`
    is the share of values to expect.
    """
    difference = np.abs(to_uint8(decoded).astype(int) - g[key])  # [B, H, W, 3]
    off = (difference > 0).any(axis=-1)
    assert difference.max() <= 1, f"{g.preset} {key}: off by {difference.max()}"
    assert off.mean() <= PNG_PIXELS, f"{g.preset} {key}: {off.sum()} of {off.size} pixels are off"


def conditions(g, side):
    tokens = load_tokenizer(ROOT / g.preset / "t5", 225)([g.meta["e2e"]["prompt"]] * 2)
    return text_features(g.preset, tokens), size_embedding(np.tile([side, side, 0, 0, side, side], (2, 1)))


@reads("e2e.base.*")
def test_prompt_to_png(g):
    released = g.meta["e2e"]["sampler_base"]["params"]
    text, vector = conditions(g, g["e2e.base.decoded"].shape[-1])
    g.check("e2e.base.vector", vector)
    grid = base_grid(released["num_steps"])
    x = sampler.start(grid, g.nhwc("e2e.base.noise"))
    latent = run(g.preset, grid, x, None, text, vector, distilled="cfg_cond_scale" in released)[-1]
    g.check_nhwc("e2e.base.latent", latent)
    decoded = decode(g.preset, latent)
    g.check_nhwc("e2e.base.decoded", decoded)
    check_png(g, "e2e.base.png_uint8", decoded)


@reads("e2e.relay.*", "e2e.base.png_uint8")
def test_png_to_png_of_twice_the_side(g):
    released = g.meta["e2e"]["sampler_relay"]["params"]
    n, p = released["num_steps"], released["partial_num_steps"]
    upsampled = up2(jnp.asarray(g["e2e.base.png_uint8"], jnp.float32) / 255 * 2 - 1)
    g.check_nhwc("e2e.relay.upsampled", upsampled)
    low = encode(g.preset, upsampled, g.nhwc("e2e.relay.encode_noise"))
    g.check_nhwc("e2e.relay.image_latent", low)
    text, vector = conditions(g, upsampled.shape[1])
    g.check("e2e.relay.vector", vector)
    grid = relay_grid(p, 1000 * p // n)
    x = sampler.start(grid, g.nhwc("e2e.relay.noise"), low)
    latent = run(g.preset, grid, x, low, text, vector, distilled="cfg_cond_scale" in released)[-1]
    g.check_nhwc("e2e.relay.latent", latent)
    decoded = decode(g.preset, latent)
    g.check_nhwc("e2e.relay.decoded", decoded)
    check_png(g, "e2e.relay.png_uint8", decoded)
