"""From a batch of the loader to what a stage trains on: latents of the frozen autoencoder, text features, the size vector."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cv3jax.models.embeddings import guidance_embedding, size_embedding
from cv3jax.models.vae import posterior_sample
from cv3jax.resize import down2, up2

Encode = Callable[[jax.Array], tuple[jax.Array, jax.Array]]  # pixels [B, H, W, 3] → posterior mean and log-variance


def make_cond(text: jax.Array, sizes: jax.Array, w: jax.Array | None = None, w_dim: int = 0) -> dict[str, jax.Array]:
    """What the UNet is told. text [B, L, C]; sizes [B, 6] in pixels (original, crop, target; height or top first); w [B] guidance."""
    cond = {"text": text, "vector": size_embedding(sizes)}
    return cond if w is None else {**cond, "w": guidance_embedding(w, w_dim)}


def square_sizes(batch: int, side: int) -> jax.Array:
    """The sizes of sampling: original = target = side², crop at (0, 0). [B, 6]"""
    return jnp.tile(jnp.array([side, side, 0, 0, side, side], jnp.int32), (batch, 1))


def drop_text(text: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """Zero whole captions with probability `rate`: what guidance calls the unconditional model. text [B, L, C], keys [B]"""
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)
    return jnp.where(dropped[:, None, None], 0.0, text)


def normals(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise [B, *shape], one key an image."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def to_pixels(image: jax.Array) -> jax.Array:
    """uint8 [0, 255] → float32 [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def encode_latent(encode: Encode, pixels: jax.Array, scale: float, keys: jax.Array) -> jax.Array:
    """Scaled latents: samples of the posterior, as the released code takes everywhere. pixels [B, H, W, 3], keys [B] → [B, h, w, z]."""
    mean, logvar = encode(pixels)
    return scale * posterior_sample(mean, logvar, normals(keys, mean.shape[1:]))


def stage_batch(
    batch: dict[str, jax.Array], keys: jax.Array, *, encode_image: Encode, encode_text: Callable, scale: float, relay: bool,
    text_drop: float,
) -> dict:  # fmt: skip
    """A loader batch {image uint8 [B, H, W, 3], tokens [B, L], sizes [B, 6]} → {x0, low (relay only), cond} for `diffusion_loss`.

    A relay stage's `low` is the latent of the image shrunk to half and enlarged again in pixel space (REFERENCE §7).
    """
    key_low, key_image, key_text = (jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys) for i in range(3))
    pixels = to_pixels(batch["image"])
    text = drop_text(encode_text(batch["tokens"]), key_text, text_drop)
    out = {"x0": encode_latent(encode_image, pixels, scale, key_image), "cond": make_cond(text, batch["sizes"])}
    if relay:
        # one after the other: the activations of both at once, of four pictures of 1024², are more than a v5e has
        pixels, out["x0"] = jax.lax.optimization_barrier((pixels, out["x0"]))
        out["low"] = encode_latent(encode_image, up2(down2(pixels)), scale, key_low)
    return out
