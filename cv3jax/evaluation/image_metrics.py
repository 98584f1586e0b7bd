"""Distances between pictures."""

import numpy as np


def psnr(images: np.ndarray, others: np.ndarray) -> float:
    """Return the PSNR in dB between uint8 [N, H, W, 3], averaged over images."""
    mse = np.mean((others.astype(np.float64) - images) ** 2, axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(mse, 1e-3))))


def image_distance(images: np.ndarray, others: np.ndarray) -> float:
    """Return the root mean square difference of uint8 [N, H, W, 3] as 0..1, mean over images."""
    return float(np.sqrt(np.mean((images / 255.0 - others / 255.0) ** 2, axis=(1, 2, 3))).mean())
