"""Make small folders of pictures with captions, for fine-tunes."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, side: int = 64) -> np.ndarray:
    """Return a smooth random picture, unlike those of other seeds, uint8 [side, side, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def put(path: Path, seed: int, caption: str | None = None, side: int = 64, **options) -> Path:
    """Write a picture, and its caption beside it where one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, side)).save(path, **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path
