"""Fit a user's picture to the relay, and what the relay made of it back to the picture.

A picture of any size is padded at the right and at the bottom to what the relay takes, and the
result is cropped. Transparency and colours are those of the picture.
"""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from cv3jax.cascade import COLOUR_FIXES
from cv3jax.cascade.sizes import Size, has_relay, multiple_of
from cv3jax.checkpoints.description import CascadeDescription
from data_pipeline.images.decode import decode_layers
from data_pipeline.io.errors import InputError

MAX_GIVEN = 4096  # pixels per side of a picture to enlarge
LEVELS = 5  # of the wavelet decomposition: what is larger than about 2⁵ pixels is low frequency
_KERNEL = np.array([1.0, 2.0, 1.0]) / 4.0


@dataclasses.dataclass(frozen=True)
class Layers:
    """A picture as the relay takes it: its colours on white, padded, and its transparency."""

    colours: np.ndarray  # uint8 [H', W', 3], sides are multiples of what the relay takes
    alpha: Image.Image | None  # mode L, of the picture's own size
    size: Size  # of the picture itself


def layers_of(image: Any, description: CascadeDescription) -> Layers:
    """Return a picture as the relay of a cascade takes it.

    image: a PIL image of any mode, turned as its EXIF says, or uint8 [H, W, 3].

    Raises InputError on anything else, on a side of more than MAX_GIVEN pixels, and where the
    cascade has no relay.
    """
    if not has_relay(description):
        raise InputError("this cascade has no relay stage, which enlarges pictures")
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InputError(
                f"an image of {image.dtype} {list(image.shape)}: give a PIL image, or uint8"
                " [H, W, 3]"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise InputError(f"an image of type {type(image).__name__}: give a PIL image")
    if max(image.size) > MAX_GIVEN:  # before its pixels are decoded
        raise InputError(
            f"a picture of {image.height}×{image.width} (height×width): give at most {MAX_GIVEN}"
            " pixels per side"
        )
    colours, alpha = decode_layers(image)
    return fitted(colours, alpha, smallest_step(description))


def smallest_step(description: CascadeDescription) -> int:
    """Return the number of pixels whose multiples are the sides of pictures to enlarge."""
    return max(multiple_of(description, "relay") // 2, 1)


def fitted(colours: Image.Image, alpha: Image.Image | None, multiple: int) -> Layers:
    """Return a picture, mode RGB, padded by its mirror image to multiples of `multiple` pixels.

    alpha: mode L, of the same size, or None.
    """
    sides = (side + -side % multiple for side in (colours.height, colours.width))
    return padded(colours, alpha, Size(*sides))


def padded(colours: Image.Image, alpha: Image.Image | None, to: Size) -> Layers:
    """Return a picture, mode RGB, padded by its mirror image to the size `to`.

    alpha: mode L, of the picture's size, or None. No side of `to` is shorter than the picture's.
    """
    size = Size(colours.height, colours.width)
    if alpha is not None:
        both = colours.copy()
        both.putalpha(alpha)
        colours = Image.alpha_composite(Image.new("RGBA", both.size, "white"), both).convert("RGB")
    spare = [(0, most - side) for side, most in zip(size, to, strict=True)]
    return Layers(np.pad(np.asarray(colours), [*spare, (0, 0)], "symmetric"), alpha, size)


def restored(layers: Layers, made: np.ndarray, colour_fix: str) -> tuple[Image.Image, float]:
    """Return (the enlarged picture, mode RGB or RGBA, its colour drift).

    made: uint8 [f · H', f · W', 3], what the relay made of `layers.colours`. colour_fix: how low
    frequencies become those of the picture, one of COLOUR_FIXES. The drift, 0..255, is the mean
    absolute difference of low frequencies between the result and the picture enlarged bilinearly.

    Raises InputError on another colour fix.
    """
    if colour_fix not in COLOUR_FIXES:
        raise InputError(f"colour fix {colour_fix!r}: give one of {', '.join(COLOUR_FIXES)}")
    factor = made.shape[0] // layers.colours.shape[0]
    size = layers.size.times(factor)
    made = made[: size.height, : size.width].astype(np.float32)
    inner = layers.colours[: layers.size.height, : layers.size.width]
    plain = Image.fromarray(inner).resize((size.width, size.height), Image.Resampling.BILINEAR)
    guide = np.asarray(plain, np.float32)
    low = low_frequencies(guide)
    if colour_fix == "wavelet":
        made = made - low_frequencies(made) + low
    elif colour_fix == "adain":
        spread = guide.std((0, 1)) / np.maximum(made.std((0, 1)), 1e-3)
        made = (made - made.mean((0, 1))) * spread + guide.mean((0, 1))
    made = np.clip(made, 0, 255)
    drift = float(np.abs(low_frequencies(made) - low).mean())
    if layers.alpha is None:
        return Image.fromarray(np.round(made).astype(np.uint8)), drift
    alpha = layers.alpha.resize((size.width, size.height), Image.Resampling.LANCZOS)
    own = without_white(made, np.asarray(alpha, np.float32)[..., None] / 255.0, factor)
    image = Image.fromarray(np.round(np.clip(own, 0, 255)).astype(np.uint8))
    image.putalpha(alpha)
    return image, drift


def without_white(made: np.ndarray, share: np.ndarray, factor: int) -> np.ndarray:
    """Return the colours [H, W, 3] of pixels that were shown on white, of which they are `share`.

    share: [H, W, 1], in 0..1. factor: by which the picture was enlarged. An edge of `made` may be
    sharper than that of the transparency: white in its place would be a fringe. So the colour of
    what is mostly transparent is that of the more opaque pixels around it.
    """
    own = np.clip((made - 255.0 * (1.0 - share)) / np.maximum(share, 1 / 255.0), 0, 255)
    weight, levels = share**4 + 1e-6, round(np.log2(factor)) + 1
    around = low_frequencies(own * weight, levels) / low_frequencies(weight, levels)
    certain = np.clip(2.0 * share - 1.0, 0, 1)
    return certain * own + (1.0 - certain) * around


def low_frequencies(pixels: np.ndarray, levels: int = LEVELS) -> np.ndarray:
    """Return the low frequencies of float pixels [H, W, C], of the same shape.

    It is the remainder of an à trous wavelet decomposition of so many levels. Level i is a blur by
    (1, 2, 1)/4 with steps of 2ⁱ pixels; outside of the picture is its edge.
    """
    for level in range(levels):
        for axis in (0, 1):
            step = 2**level
            pad = [(0, 0)] * pixels.ndim
            pad[axis] = (step, step)
            wide, length = np.pad(pixels, pad, "edge"), pixels.shape[axis]
            pixels = sum(
                weight * wide.take(range(i * step, i * step + length), axis)
                for i, weight in enumerate(_KERNEL)
            )
    return pixels
