"""The KL autoencoder between pixels and latents.

By default it is SDXL's: 8× smaller per side, with 4 channels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv3jax.models.layers import ResBlock, attend, conv3, group_norm, upsample_nearest


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """Move each b×b square of pixels into the channels: [B, H, W, C] → [B, H/b, W/b, b²C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // block, block, w // block, block, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // block, w // block, block * block * c)


def depth_to_space(x: jax.Array, block: int) -> jax.Array:
    """Invert `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, block, block, c // block**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * block, w * block, c // block**2)


WHOLE = 128**2  # most positions whose attention is computed at once: 1 GiB of logits per image


def attend_by_rows(q: jax.Array, k: jax.Array, v: jax.Array, height: int) -> jax.Array:
    """Return `attend`, computed for one row of queries after the other.

    So the logits of all rows, which grow with the fourth power of the side, never exist together.
    q, k, v [B, height · W, 1, C].
    """
    b, positions, heads, c = q.shape
    rows = q.reshape(b, height, positions // height, heads, c).swapaxes(0, 1)
    out = jax.lax.map(lambda row: attend(row, k, v), rows)
    return out.swapaxes(0, 1).reshape(q.shape)


class PixelAttention(nn.Module):
    """x + attention of all positions over all others, with one head as wide as the channels.

    The projections have biases. Images of more than WHOLE positions are attended row by row.
    """

    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Return the output, of the shape of x."""
        b, height, width, c = x.shape
        h = group_norm(self.groups, 1e-6, self.dtype, "norm")(x) if self.groups else x
        h = h.reshape(b, height * width, 1, c)
        q, k, v = (nn.Dense(c, dtype=self.dtype, name=name)(h) for name in "qkv")
        large = height * width > WHOLE
        h = attend_by_rows(q, k, v, height) if large else attend(q, k, v)
        h = nn.Dense(c, dtype=self.dtype, name="out")(h)
        return x + h.reshape(x.shape)


class Middle(nn.Module):
    """ResBlock, attention, ResBlock at the lowest resolution."""

    groups: int
    attention: bool
    dtype: Any

    @nn.compact
    def __call__(self, h):
        """Return the output, of the shape of h."""
        h = ResBlock(h.shape[-1], self.groups, 1e-6, self.dtype, name="res_0")(h)
        if self.attention:
            h = PixelAttention(self.groups, self.dtype, name="attention")(h)
        return ResBlock(h.shape[-1], self.groups, 1e-6, self.dtype, name="res_1")(h)


class Encoder(nn.Module):
    """Pixels [B, H, W, 3] → features [B, H/f, W/f, 2z] before `quant`."""

    channels: int
    channel_mult: tuple[int, ...]
    res_blocks: int
    z_channels: int
    patch: int
    groups: int
    mid_attention: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Return the features [B, H/f, W/f, 2z]."""
        h = conv3(self.channels, self.dtype, "conv_in")(space_to_depth(x, self.patch))
        for stage, mult in enumerate(self.channel_mult):
            for i in range(self.res_blocks):
                h = ResBlock(
                    self.channels * mult, self.groups, 1e-6, self.dtype, name=f"down_{stage}_{i}"
                )(h)
            if stage < len(self.channel_mult) - 1:
                # SDXL pads right and bottom only, unlike the UNet
                h = nn.Conv(
                    h.shape[-1],
                    (3, 3),
                    (2, 2),
                    ((0, 1), (0, 1)),
                    dtype=self.dtype,
                    name=f"down_{stage}_sample",
                )(h)
        h = Middle(self.groups, self.mid_attention, self.dtype, name="mid")(h)
        h = nn.silu(group_norm(self.groups, 1e-6, self.dtype, "norm_out")(h) if self.groups else h)
        return conv3(2 * self.z_channels, self.dtype, "conv_final")(h)


class Decoder(nn.Module):
    """Latents [B, h, w, z] after `post_quant` → pixels [B, fh, fw, 3]."""

    channels: int
    channel_mult: tuple[int, ...]
    res_blocks: int
    patch: int
    groups: int
    mid_attention: bool
    dtype: Any

    @nn.compact
    def __call__(self, z):
        """Return the pixels [B, fh, fw, 3]."""
        h = conv3(self.channels * self.channel_mult[-1], self.dtype, "conv_in")(z)
        h = Middle(self.groups, self.mid_attention, self.dtype, name="mid")(h)
        for stage, mult in reversed(list(enumerate(self.channel_mult))):
            for i in range(self.res_blocks + 1):
                h = ResBlock(
                    self.channels * mult, self.groups, 1e-6, self.dtype, name=f"up_{stage}_{i}"
                )(h)
            if stage:
                h = conv3(h.shape[-1], self.dtype, f"up_{stage}_sample")(upsample_nearest(h))
        h = nn.silu(group_norm(self.groups, 1e-6, self.dtype, "norm_out")(h) if self.groups else h)
        return depth_to_space(conv3(3 * self.patch**2, self.dtype, "conv_final")(h), self.patch)


class Autoencoder(nn.Module):
    """KL autoencoder of pixels, float in [-1, 1].

    Its latents are unscaled; the stage multiplies them by its latent scale. `patch` > 1 starts from
    patch×patch pixels per position and ends in a pixel shuffle, which is cheap for small models.
    The factor between pixels and latents is `patch` · 2^(stages - 1).
    """

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    z_channels: int = 4
    patch: int = 1
    groups: int = 32  # 0: no norms
    mid_attention: bool = True
    dtype: Any = jnp.float32

    def setup(self):
        """Make the encoder, the decoder and the convolutions beside the latents."""
        sizes = {
            "channels": self.channels,
            "channel_mult": self.channel_mult,
            "res_blocks": self.res_blocks,
            "patch": self.patch,
            "groups": self.groups,
            "mid_attention": self.mid_attention,
            "dtype": self.dtype,
        }
        self.encoder = Encoder(z_channels=self.z_channels, **sizes)
        self.decoder = Decoder(**sizes)
        self.quant = nn.Conv(
            2 * self.z_channels, (1, 1), dtype=self.dtype, bias_init=narrow_posterior
        )
        self.post_quant = nn.Conv(self.z_channels, (1, 1), dtype=self.dtype)

    @property
    def factor(self) -> int:
        """Pixels per latent pixel, per side."""
        return self.patch * 2 ** (len(self.channel_mult) - 1)

    def encode(self, pixels):
        """Return the posterior's (mean, log-variance) of pixels [B, H, W, 3].

        Each is float32 [B, H/f, W/f, z]; the log-variance is clamped to [-30, 20].
        """
        moments = self.quant(self.encoder(pixels.astype(self.dtype))).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, clamp_logvar(logvar)

    def decode(self, z):
        """Return float32 pixels [B, fh, fw, 3], about -1..1 and not clipped, of z [B, h, w, z]."""
        return self.decoder(self.post_quant(z.astype(self.dtype))).astype(jnp.float32)

    def __call__(self, pixels):
        """Return (pixels decoded from the mean, mean, log-variance)."""
        mean, logvar = self.encode(pixels)
        return self.decode(mean), mean, logvar


def narrow_posterior(key: jax.Array, shape: tuple[int], dtype: Any) -> jax.Array:
    """Return a bias that starts log-variances at -6.

    From unit variance, a run would spend hundreds of steps in its own posterior noise.
    """
    del key
    return jnp.concatenate([jnp.zeros(shape[0] // 2, dtype), jnp.full(shape[0] // 2, -6.0, dtype)])


def clamp_logvar(logvar: jax.Array) -> jax.Array:
    """Return the posterior's log-variance clamped to [-30, 20].

    So its exponential and its KL stay finite.
    """
    return jnp.clip(logvar, -30.0, 20.0)


def posterior_sample(mean: jax.Array, logvar: jax.Array, noise: jax.Array) -> jax.Array:
    """Return mean + exp(logvar / 2) · noise.

    The released code uses the sample everywhere, not the mode.
    """
    return mean + jnp.exp(0.5 * logvar) * noise
