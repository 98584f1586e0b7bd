"""Distances between pictures."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def psnr(images: np.ndarray, others: np.ndarray) -> float:
    """Return the PSNR in dB between uint8 [N, H, W, 3], averaged over images."""
    mse = np.mean((others.astype(np.float64) - images) ** 2, axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(mse, 1e-3))))


def image_distance(images: np.ndarray, others: np.ndarray) -> float:
    """Return the root mean square difference of uint8 [N, H, W, 3] as 0..1, mean over images."""
    return float(np.sqrt(np.mean((images / 255.0 - others / 255.0) ** 2, axis=(1, 2, 3))).mean())


def distances(pairs: Iterable[tuple[Path, Path]]) -> np.ndarray | None:
    """Return `image_distance` of each pair of files, [n]; None where a pair's sizes differ."""
    found = []
    for pair in pairs:
        first, second = (_read(path)[None] for path in pair)
        if first.shape != second.shape:
            return None
        found.append(image_distance(first, second))
    return np.array(found)


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
