"""Colours of an embedded ICC profile → sRGB, which is what everything here takes pixels for."""

import functools
import io
import sys

import numpy as np
from PIL import Image, ImageCms, features

_CLOSE = 2  # of 255: a profile that moves no colour by more is sRGB's own, in one of its versions
_STEPS = np.linspace(0, 255, 6).astype(np.uint8)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image of mode L, RGB or CMYK, without transparency, as RGB in sRGB.

    A profile that is sRGB's, damaged, or of other channels than the image leaves the pixels as
    they are, as viewers do. So does a Pillow without littlecms, which says so once.
    """
    if profile and (change := _change(profile, image.mode)):
        return change.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def changes(profile: bytes | None, mode: str) -> bool:
    """Whether `to_srgb` would make other colours of an image than its plain pixels are."""
    return bool(profile) and _change(profile, mode) is not None


@functools.lru_cache(maxsize=32)  # a camera's pictures have one and the same
def _change(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if not _has_littlecms():
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
    # Pillow raises whatever a damaged profile leads it to
    except Exception:
        return None
    return change if mode == "CMYK" or np.abs(moved).max() > _CLOSE else None


def _probe(mode: str) -> Image.Image:
    """Colours all over the mode's range."""
    channels = len(mode) if mode != "L" else 1
    grid = np.stack(np.meshgrid(*[_STEPS] * channels), -1).reshape(1, -1, channels)
    return Image.frombytes(mode, (grid.shape[1], 1), np.ascontiguousarray(grid).tobytes())


@functools.cache
def _has_littlecms() -> bool:
    if not (found := features.check("littlecms2")):
        said = "this Pillow has no littlecms: colours of embedded profiles are taken for sRGB"
        print(f"cv3jax: {said}; pip install pillow", file=sys.stderr)
    return bool(found)
