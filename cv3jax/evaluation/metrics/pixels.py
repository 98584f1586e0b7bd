"""Pictures as the input of networks: the resizes and crops of each metric's original library.

All take RGB pictures of any size and return float32 tensors [n, 3, side, side].
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL.Image import Image, Resampling, fromarray

from data_pipeline.io import extras

# OpenAI's CLIP, and all that was made after it
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

Crop = Literal["round", "floor"]

# for protocols
_SHIFT = {"mean": list(MEAN), "std": list(STD)}
SHORT_SIDE: dict[str, Any] = {"resize": "short side, bicubic, Pillow, 8 bits"} | _SHIFT
LONG_SIDE: dict[str, Any] = {
    "resize": "long side, bicubic with antialiasing, PyTorch, float32",
    "crop": "none, black around",
} | _SHIFT
SQUARE: dict[str, Any] = {"resize": "square, bicubic, Pillow, float32, cut to 0..255"}


def short_side(images: Sequence[Image], side: int, crop: Crop) -> Any:
    """Return CLIP's input: bicubic by Pillow to a short side of `side`, and the centre of it.

    crop: how half a pixel is cut off: "round" as torchvision does (to even), "floor" as
    transformers does.
    """
    return _normalised([_short_side(image, side, crop) for image in images])


def _short_side(image: Image, side: int, crop: Crop) -> np.ndarray:
    width, height = image.size
    short = min(width, height)
    size = (side * width // short, side * height // short)
    resized = image if size == image.size else image.resize(size, Resampling.BICUBIC)
    half = [(each - side) / 2 if crop == "round" else (each - side) // 2 for each in size]
    left, top = (round(each) for each in half)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def long_side(images: Sequence[Image], side: int) -> Any:
    """Return the input of HPS: bicubic with antialiasing to a long side of `side`, black around.

    The resize is of float32 tensors, which keeps values between those of 8 bits, and beyond 0..1.
    """
    torch = extras.load("torch", "the metric hps")
    made = torch.zeros(len(images), 3, side, side)
    for i, image in enumerate(images):
        pixels = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1) / 255
        scale = side / max(image.size)
        if scale != 1:
            size = [max(round(each * scale), 1) for each in pixels.shape[1:]]
            pixels = torch.nn.functional.interpolate(
                pixels[None], size, mode="bicubic", align_corners=False, antialias=True
            )[0]
        height, width = pixels.shape[1:]
        top, left = (side - height) // 2, (side - width) // 2
        made[i, :, top : top + height, left : left + width] = pixels
    return _standard(torch, made)


def square(images: Sequence[Image], side: int) -> Any:
    """Return the input of FID as clean-fid makes it: each channel to `side`², bicubic, 0..255.

    Pillow resizes in float32, with antialiasing and without rounding to 8 bits. The proportions of
    a picture that is not square are lost.
    """
    torch = extras.load("torch", "the metric fid")
    return torch.from_numpy(np.stack([_square(image, side) for image in images]))


def _square(image: Image, side: int) -> np.ndarray:
    channels = np.asarray(image, np.float32).transpose(2, 0, 1)
    resized = [fromarray(one).resize((side, side), Resampling.BICUBIC) for one in channels]
    return np.stack([np.asarray(one).clip(0, 255) for one in resized])


def _normalised(pictures: list[np.ndarray]) -> Any:
    torch = extras.load("torch", "a metric")
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return _standard(torch, pixels)


def _standard(torch: Any, pixels: Any) -> Any:
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
