"""A KL autoencoder that starts from patches of pixels, which diffusers' AutoencoderKL cannot hold.

This file belongs to a folder that `cv3jax convert --to diffusers` wrote. It needs PyTorch and
diffusers, and nothing of cv3jax.
"""

import itertools

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


def to_patches(x: torch.Tensor, size: int) -> torch.Tensor:
    """Move each square of pixels into the channels: [B, C, H, W] → [B, size² C, H/size, W/size].

    The channel is the last of the three indices (row, column, channel).
    """
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(b, size * size * c, h // size, w // size)


def from_patches(x: torch.Tensor, size: int) -> torch.Tensor:
    """Invert `to_patches`."""
    b, c, h, w = x.shape
    c //= size * size
    x = x.reshape(b, size, size, c, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(b, c, h * size, w * size)


def norm(groups: int, channels: int) -> nn.Module:
    """Return a GroupNorm, or nothing where there are no groups."""
    return nn.GroupNorm(groups, channels, eps=1e-6) if groups else nn.Identity()


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, channels: int, features: int, groups: int):
        """Make the layers, with a convolution of x where its channels change."""
        super().__init__()
        self.norm1, self.norm2 = norm(groups, channels), norm(groups, features)
        self.conv1 = nn.Conv2d(channels, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(channels, features, 1) if channels != features else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output [B, features, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class PixelAttention(nn.Module):
    """x + attention of all positions over all others, with one head."""

    def __init__(self, channels: int, groups: int):
        """Make the norm and the four projections."""
        super().__init__()
        self.norm = norm(groups, channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output, of the shape of x."""
        h = self.norm(x)
        q, k, v = (
            layer(h).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v)
        )
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class Middle(nn.Module):
    """ResBlock, attention if wanted, ResBlock."""

    def __init__(self, channels: int, groups: int, attention: bool):
        """Make the layers."""
        super().__init__()
        self.block_1 = ResBlock(channels, channels, groups)
        self.attn_1 = PixelAttention(channels, groups) if attention else nn.Identity()
        self.block_2 = ResBlock(channels, channels, groups)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return the output, of the shape of h."""
        return self.block_2(self.attn_1(self.block_1(h)))


class Resample(nn.Module):
    """A convolution that halves the sides, or doubles them."""

    def __init__(self, channels: int, up: bool):
        """Make the convolution."""
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, 1 if up else 2, 1 if up else 0)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return the output; halving pads on the right and at the bottom, as SDXL does."""
        if self.up:
            return self.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.conv(F.pad(h, (0, 1, 0, 1)))


class Stage(nn.Module):
    """The ResBlocks of a resolution, and the convolution to the next one."""

    def __init__(self, widths: list[int], groups: int, resample: str | None):
        """Make blocks from width to width. resample: "upsample", "downsample" or None."""
        super().__init__()
        self.block = nn.ModuleList(
            ResBlock(before, after, groups) for before, after in itertools.pairwise(widths)
        )
        self.resample = resample
        if resample:
            setattr(self, resample, Resample(widths[-1], resample == "upsample"))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return the stage's output."""
        for block in self.block:
            h = block(h)
        return getattr(self, self.resample)(h) if self.resample else h


class Encoder(nn.Module):
    """Pixels [B, 3, H, W] → features [B, 2z, H/f, W/f]."""

    def __init__(self, config: dict):
        """Make the layers from the autoencoder's configuration."""
        super().__init__()
        self.patch, groups, count = config["patch"], config["groups"], config["res_blocks"]
        widths = [config["channels"] * mult for mult in config["channel_mult"]]
        self.conv_in = nn.Conv2d(3 * self.patch**2, config["channels"], 3, padding=1)
        last, before = len(widths) - 1, [config["channels"], *widths]
        self.down = nn.ModuleList(
            Stage([before[i]] + [width] * count, groups, "downsample" if i < last else None)
            for i, width in enumerate(widths)
        )
        self.mid = Middle(widths[-1], groups, config["mid_attention"])
        self.norm_out = norm(groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * config["latent_channels"], 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features."""
        h = self.conv_in(to_patches(x, self.patch))
        for stage in self.down:
            h = stage(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latents [B, z, h, w] → pixels [B, 3, fh, fw]."""

    def __init__(self, config: dict):
        """Make the layers from the autoencoder's configuration."""
        super().__init__()
        self.patch, groups, count = config["patch"], config["groups"], config["res_blocks"]
        widths = [config["channels"] * mult for mult in config["channel_mult"]]
        self.conv_in = nn.Conv2d(config["latent_channels"], widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], groups, config["mid_attention"])
        before = [*widths[1:], widths[-1]]  # the stages are run from the last to the first
        self.up = nn.ModuleList(
            Stage([before[i]] + [width] * (count + 1), groups, "upsample" if i else None)
            for i, width in enumerate(widths)
        )
        self.norm_out = norm(groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3 * self.patch**2, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the pixels."""
        h = self.mid(self.conv_in(z))
        for stage in reversed(self.up):
            h = stage(h)
        return from_patches(self.conv_out(F.silu(self.norm_out(h))), self.patch)


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """KL autoencoder of pixels in [-1, 1], with the calls of diffusers' AutoencoderKL.

    Args:
        channels: of the first stage.
        channel_mult: channels of each stage, in multiples of those of the first.
        res_blocks: of a stage of the encoder; one more in the decoder.
        latent_channels: z.
        patch: the side of the squares of pixels that it starts from.
        groups: of the norms; 0 for no norms.
        mid_attention: whether the lowest resolution has attention.
        scaling_factor: latents times this have unit variance.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 64,
        channel_mult: tuple[int, ...] = (1, 1),
        res_blocks: int = 1,
        latent_channels: int = 8,
        patch: int = 4,
        groups: int = 0,
        mid_attention: bool = False,
        scaling_factor: float = 1.0,
    ):
        """Make the encoder, the decoder and the convolutions beside the latents."""
        super().__init__()
        self.encoder, self.decoder = Encoder(self.config), Decoder(self.config)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)

    def encode(self, x: torch.Tensor) -> AutoencoderKLOutput:
        """Return the posterior `latent_dist` of pixels [B, 3, H, W], unscaled."""
        moments = self.quant_conv(self.encoder(x))
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, z: torch.Tensor) -> DecoderOutput:
        """Return the pixels `sample` [B, 3, fH, fW] of unscaled latents, not clipped."""
        return DecoderOutput(sample=self.decoder(self.post_quant_conv(z)))

    def forward(self, x: torch.Tensor) -> DecoderOutput:
        """Return the pixels `sample` that are decoded from the posterior's mean."""
        return self.decode(self.encode(x).latent_dist.mode())
