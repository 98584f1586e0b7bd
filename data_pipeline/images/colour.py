"""Converting the colours of an embedded ICC profile to sRGB, which all other code assumes."""

import functools
import io
import sys

import numpy as np
from PIL import Image, ImageCms, features

from data_pipeline.images.bounds import MAX_PROFILE

_CLOSE = 2  # of 255: a profile that changes no colour by more is a version of sRGB itself
_STEPS = np.linspace(0, 255, 6).astype(np.uint8)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image of mode L, RGB or CMYK, without transparency, as RGB in sRGB.

    The pixels stay as they are where the profile is sRGB, is damaged, or has other channels than
    the image; viewers do the same. They also stay where Pillow lacks littlecms, which a warning
    says once.
    """
    if profile and (change := _change(profile, image.mode)):
        return change.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def changes(profile: bytes | None, mode: str) -> bool:
    """Return whether `to_srgb` would give an image other colours than its plain pixels have."""
    return bool(profile) and _change(profile, mode) is not None


@functools.lru_cache(maxsize=32)  # all pictures of one camera have the same profile
def _change(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB, or None where it would change nothing."""
    if not _has_littlecms() or len(profile) > MAX_PROFILE:
        return None
    try:
        change = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        probe = _probe(mode)
        moved = np.asarray(change.apply(probe), int) - np.asarray(probe.convert("RGB"), int)
    except MemoryError:
        raise
    # on a damaged profile Pillow may raise anything
    except Exception:
        return None
    return change if mode == "CMYK" or np.abs(moved).max() > _CLOSE else None


def _probe(mode: str) -> Image.Image:
    """Return an image of colours from all over the mode's range."""
    channels = len(mode) if mode != "L" else 1
    grid = np.stack(np.meshgrid(*[_STEPS] * channels), -1).reshape(1, -1, channels)
    return Image.frombytes(mode, (grid.shape[1], 1), np.ascontiguousarray(grid).tobytes())


@functools.cache
def _has_littlecms() -> bool:
    """Return whether Pillow has littlecms; warn once where it has not."""
    if not (found := features.check("littlecms2")):
        said = "this Pillow has no littlecms, so images with a colour profile are read as sRGB"
        print(f"cv3jax: {said}; pip install pillow brings one that has it", file=sys.stderr)
    return bool(found)
