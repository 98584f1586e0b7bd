"""Convert uint8 pixels to [-1, 1] and back, and resize bilinearly by exactly two.

Centres are half-pixel and nothing is antialiased, as in the released code (REFERENCE §7);
`jax.image.resize` would antialias when it shrinks. Relay training and relay sampling both use these
functions.
"""

import jax
import jax.numpy as jnp


def to_uint8(pixels: jax.Array) -> jax.Array:
    """Convert [-1, 1] to [0, 255], clipped and truncated as the released code writes its PNGs."""
    return (jnp.clip((pixels + 1.0) / 2.0, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def to_pixels(image: jax.Array) -> jax.Array:
    """Convert uint8 [0, 255] to float32 [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def down2(x: jax.Array) -> jax.Array:
    """Halve [B, H, W, C] to [B, H/2, W/2, C]: the mean of each 2×2 box, equal to bilinear ×½.

    Raises ValueError when a side is odd.
    """
    b, h, w, c = x.shape
    if h % 2 or w % 2:
        raise ValueError(f"height and width must be even to be halved, not {h}×{w}")
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def up2(x: jax.Array) -> jax.Array:
    """Enlarge [B, H, W, C] to [B, 2H, 2W, C]: bilinear, taps 0.75 and 0.25, the edge repeated."""
    return _double(_double(x, 1), 2)


@jax.jit
def enlarged(images: jax.Array) -> jax.Array:
    """Return uint8 images [B, H, W, 3] as pixels [B, 2H, 2W, 3] by `up2`, in one program.

    Its operations one by one would be fourteen programs.
    """
    return up2(to_pixels(images))


def _double(x: jax.Array, axis: int) -> jax.Array:
    """Turn each value v_i into (v_{i-1} + 3 v_i)/4 and (3 v_i + v_{i+1})/4 along `axis`."""
    size = x.shape[axis]
    index = jnp.arange(size)
    before = jnp.take(x, jnp.maximum(index - 1, 0), axis)
    after = jnp.take(x, jnp.minimum(index + 1, size - 1), axis)
    pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
