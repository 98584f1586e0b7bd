"""Pictures of CogView3's pipeline: 8-bit pictures, pixels in [-1, 1], and scaled latents.

This file belongs to a folder that `cv3jax convert --to diffusers` wrote, beside pipeline.py.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from PIL import Image, ImageOps

OUTPUTS = ("pil", "np", "pt", "latent")


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Convert [-1, 1] to [0, 255], clipped and truncated as the released code writes its PNGs."""
    return (((pixels + 1.0) / 2.0).clamp(0.0, 1.0) * 255.0).to(torch.uint8)


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    """Return uint8 images [B, 3, H, W] as PIL's."""
    return [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()]


def from_pictures(image: Any) -> torch.Tensor:
    """Return PIL images, or uint8 arrays [H, W, 3] or [B, H, W, 3], as uint8 [B, 3, H, W].

    Raises ValueError on anything else, and on pictures of different sizes.
    """
    several = isinstance(image, (list, tuple)) or (
        isinstance(image, np.ndarray) and image.ndim == 4
    )
    given = image if several else [image]
    arrays = [np.asarray(_rgb(one) if isinstance(one, Image.Image) else one) for one in given]
    if not arrays or any(
        one.ndim != 3 or one.shape[-1] != 3 or one.dtype != np.uint8 or one.shape != arrays[0].shape
        for one in arrays
    ):
        raise ValueError("give PIL images or uint8 arrays [H, W, 3], all of one size")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def _rgb(image: Image.Image) -> Image.Image:
    """Return a picture upright, on white where it is transparent. Raises ValueError on 16 bits."""
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
        raise ValueError(f"a picture of mode {image.mode}: give 8 bits a channel, such as RGB")
    image = ImageOps.exif_transpose(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def as_output(pixels: torch.Tensor, kind: str) -> list[Image.Image] | np.ndarray | torch.Tensor:
    """Return pixels [B, 3, H, W] in [-1, 1] as "pil", "np" [B, H, W, 3] or "pt" in 0..1."""
    if kind == "pil":
        return to_pil(to_uint8(pixels))
    unit = ((pixels + 1.0) / 2.0).clamp(0.0, 1.0)
    return unit if kind == "pt" else unit.permute(0, 2, 3, 1).cpu().numpy()


def doubled(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images [B, 3, H, W] as pixels in [-1, 1] of twice the side, bilinear."""
    pixels = images.float() / 127.5 - 1.0
    return F.interpolate(pixels, scale_factor=2.0, mode="bilinear", align_corners=False)


def encode(vae: ModelMixin, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return scaled latents [B, z, h, w], float32, a sample of the posterior of pixels."""
    vae = _computing(vae)
    posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
    latents = posterior.mean.float() + posterior.std.float() * noise
    return vae.config.scaling_factor * latents


def decode(vae: ModelMixin, latents: torch.Tensor) -> torch.Tensor:
    """Return the pixels [B, 3, H, W] of scaled latents, float32, not clipped."""
    vae = _computing(vae)
    return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float()


def _computing(vae: ModelMixin) -> ModelMixin:
    """Return the autoencoder, in float32 if it is in float16, which overflows."""
    return vae.to(torch.float32) if vae.dtype == torch.float16 else vae
