"""The autoencoder and the text encoder of a cascade as jitted functions."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from cv3jax.cascade.parts import build_model
from cv3jax.cascade.stage_sampler import images_sharding
from cv3jax.cascade.tiled_coders import tiled_decoder, tiled_encoder
from cv3jax.checkpoints.description import TextDescription
from cv3jax.diffusion.pixels import to_uint8
from cv3jax.distributed.backend import announced
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.vae import Autoencoder, posterior_sample


def encoder(vae: Autoencoder, scale: float, mesh: Mesh | None, tile: int | None = None) -> Callable:
    """Return a jitted (params, pixels [B, H, W, 3], noise) → scaled samples [B, h, w, z].

    tile: pixels per side of the tiles that it works in, with the same result in less memory. None
    for the whole picture at once.

    Raises InputError where the tile is no multiple of the factor.
    """
    if tile is not None:
        return tiled_encoder(vae, scale, mesh, tile)

    def encode(params, pixels, noise):
        moments = vae.apply({"params": params}, pixels, method="encode")
        return scale * posterior_sample(*moments, noise)

    return announced(jax.jit(encode, out_shardings=images_sharding(mesh)), "the encoder")


def decoder(vae: Autoencoder, scale: float, mesh: Mesh | None, tile: int | None = None) -> Callable:
    """Return a jitted (params, scaled latents [B, h, w, z]) → uint8 pixels [B, H, W, 3].

    tile: as for `encoder`, with the same error.
    """
    if tile is not None:
        return tiled_decoder(vae, scale, mesh, tile)

    def decode(params, latents):
        return to_uint8(decoded(vae, scale, params, latents))

    return announced(jax.jit(decode, out_shardings=images_sharding(mesh)), "the decoder")


def decoded(vae: Autoencoder, scale: float, params: Any, latents: jax.Array) -> jax.Array:
    """Return the pixels float32 [B, H, W, 3] of scaled latents, about -1..1."""
    return vae.apply({"params": params}, latents / scale, method="decode")


def text_encoder(description: TextDescription) -> Callable:
    """Return a jitted (params, tokens [B, L]) → text features [B, L, C]."""
    t5 = build_model(T5Encoder, description.model)

    def encode(params, tokens):
        return t5.apply({"params": params}, tokens)

    return announced(jax.jit(encode), "the text encoder")
