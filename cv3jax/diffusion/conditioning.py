"""Turn a loader's batch into what a stage trains on: latents, text features and size vector."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cv3jax.diffusion.pixels import down2, to_pixels, up2
from cv3jax.models.embeddings import guidance_embedding, size_embedding

# pixels [B, H, W, 3] → posterior mean and log-variance
Encode = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def make_cond(
    text: jax.Array, sizes: jax.Array, w: jax.Array | None = None, w_dim: int = 0
) -> dict[str, jax.Array]:
    """Return the conditioning of the UNet.

    text [B, L, C]. sizes [B, 6] in pixels: original, crop, target, each with height or top first. w
    [B]: guidance weights of a guidance-conditioned UNet, embedded in w_dim dimensions.
    """
    cond = {"text": text, "vector": size_embedding(sizes)}
    return cond if w is None else {**cond, "w": guidance_embedding(w, w_dim)}


def picture_sizes(batch: int, height: int, width: int) -> jax.Array:
    """Return the sizes [B, 6] of sampling: original = target = height × width, crop at (0, 0)."""
    return jnp.tile(jnp.array([height, width, 0, 0, height, width], jnp.int32), (batch, 1))


def drop_text(text: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """Zero whole captions with probability `rate`; guidance uses such an unconditional model.

    text [B, L, C], keys [B].
    """
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)
    return jnp.where(dropped[:, None, None], 0.0, text)


def normals(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return standard normal noise [B, *shape], from one key per image."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def posteriors(image: jax.Array, encode: Encode, relay: bool) -> dict[str, jax.Array]:
    """Return the autoencoder's posterior of images uint8 [B, H, W, 3].

    The result is {mean, dev} float32 [B, h, w, z], unscaled; dev is the standard deviation. For a
    relay stage it has also {low_mean, low_dev}, those of the image shrunk to half and enlarged
    again in pixel space (REFERENCE §7).
    """
    pixels = to_pixels(image)
    out = dict(zip(("mean", "dev"), moments(encode, pixels), strict=True))
    if relay:
        # one after the other: both at once, of four pictures of 1024², have more activations than a
        # v5e has memory
        pixels, out = jax.lax.optimization_barrier((pixels, out))
        out |= zip(("low_mean", "low_dev"), moments(encode, up2(down2(pixels))), strict=True)
    return out


def moments(encode: Encode, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and standard deviation of the posterior of pixels [B, H, W, 3]."""
    mean, logvar = encode(pixels)
    return mean, jnp.exp(0.5 * logvar)


def sample_latent(mean: jax.Array, dev: jax.Array, scale: float, keys: jax.Array) -> jax.Array:
    """Return scaled latents: samples of the posterior, as the released code uses everywhere.

    mean, dev [B, h, w, z] of any type, keys [B].
    """
    return scale * (
        mean.astype(jnp.float32) + dev.astype(jnp.float32) * normals(keys, mean.shape[1:])
    )


def stored_text(batch: dict[str, jax.Array]) -> jax.Array:
    """Return the text features of a feature cache, float32 [B, L, C].

    Features in int8 are multiples of the scale of their token.
    """
    text = batch["text"].astype(jnp.float32)
    return text * batch["text_scale"][..., None] if "text_scale" in batch else text


def latent_mask(mask: jax.Array, height: int) -> jax.Array:
    """Return the share [B, h, w, 1] of each latent's pixels that counts, of `height` rows.

    mask: uint8 [B, H, W], 255 where a pixel counts in full.
    """
    b, rows, columns = mask.shape
    side = rows // height
    shares = mask.astype(jnp.float32).reshape(b, height, side, columns // side, side) / 255.0
    return shares.mean((2, 4))[..., None]


def stage_batch(
    batch: dict[str, jax.Array],
    keys: jax.Array,
    *,
    encode_image: Encode,
    encode_text: Callable,
    scale: float,
    relay: bool,
    text_drop: float,
) -> dict:
    """Return what `diffusion_loss` takes: {x0, low (relay only), mask (if there is one), cond}.

    batch: of the loader, {image uint8 [B, H, W, 3], tokens [B, L], sizes [B, 6]}, and mask uint8
    [B, H, W] for a masked loss. A feature cache (data_pipeline/records/feature_cache.py) replaces
    the images by {mean, dev, low_mean, low_dev}, the tokens by {text, text_scale}, or both. The
    noise has the same keys either way.
    """
    key_low, key_image, key_text = (
        jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys) for i in range(3)
    )
    text = drop_text(
        stored_text(batch) if "text" in batch else encode_text(batch["tokens"]), key_text, text_drop
    )
    latents = batch if "mean" in batch else posteriors(batch["image"], encode_image, relay)
    out = {
        "x0": sample_latent(latents["mean"], latents["dev"], scale, key_image),
        "cond": make_cond(text, batch["sizes"]),
    }
    if "mask" in batch:
        out["mask"] = latent_mask(batch["mask"], out["x0"].shape[1])
    if relay:
        out["low"] = sample_latent(latents["low_mean"], latents["low_dev"], scale, key_low)
    return out
