"""What only a picture of 128² shows of a thing: an outline around it, a texture on it."""

import numpy as np
from scipy import ndimage

from data_pipeline.scenes_render import OUTLINE_RGB

_PERIOD = 4  # of the textures, in pixels at 128²
_AMPLITUDE = 0.045  # of the first harmonic, in parts of the colour; rendered stripes have 0.14, dots 0.12
_BINS = np.arange(-6, 4.01, 0.5)  # pixels


def signed_distance(own: np.ndarray) -> np.ndarray:
    """Pixels from the edge of a mask [h, w], negative inside."""
    return np.where(own, 0.5 - ndimage.distance_transform_edt(own), ndimage.distance_transform_edt(~own) - 0.5)


def outline_of(pixels: np.ndarray, distance: np.ndarray, ground: np.ndarray, width: float) -> str | None:
    """The outline of the thing whose edge, outline included, is where distance [h, w] = 0; pixels [h, w, 3].

    Mean colours at each distance from the edge, compared with what fill, outline and background of one colour each would
    give, for edges somewhat elsewhere and somewhat soft.
    """
    near = np.abs(distance) < 6
    bins = np.digitize(distance[near], _BINS)
    count = np.bincount(bins, minlength=len(_BINS) + 1)[1:-1]
    profile = np.stack([np.bincount(bins, pixels[near][:, c], minlength=len(_BINS) + 1)[1:-1] for c in range(3)], 1)
    used = (count >= 3) & (_BINS[1:] <= width + 2)
    weight = np.sqrt(count[used])[:, None]
    profile = profile[used] / count[used][:, None]
    at = (_BINS[:-1] + _BINS[1:])[used] / 2
    best = {}
    for name in (None, *OUTLINE_RGB):
        if name and np.linalg.norm(np.subtract(OUTLINE_RGB[name], ground)) < 60:
            continue
        errors = []
        for shift in np.arange(-1, width + 0.6, 0.5):
            for soft in (1.0, 2.0):
                outer = np.clip(0.5 - (at - shift) / soft, 0, 1)
                inner = np.clip(0.5 - (at - shift + width) / soft, 0, 1) if name else outer
                rest = profile - (1 - outer)[:, None] * ground - (outer - inner)[:, None] * (OUTLINE_RGB[name] if name else 0)
                a = inner[:, None] * weight  # least squares for the fill's colour
                fill = (a * weight * rest).sum(0) / max((a * a).sum(), 1e-6)
                errors.append(float((weight**2 * (rest - inner[:, None] * fill) ** 2).sum()))
        best[name] = min(errors)
    return min(best, key=best.get)


def texture_of(pixels: np.ndarray, distance: np.ndarray) -> str | None:
    """Stripes or dots on pixels [128, 128, 3] inside a fill, where distance [128, 128] < 0: the period's first harmonic.

    Each window of one period is demodulated by itself, so that the phase may be any and may drift; stripes vary along y only.
    """
    inside = distance < -1
    if inside.sum() < 2 * _PERIOD**2:
        return None
    fill = pixels[inside].mean(0)
    shade = pixels @ fill / max(float(fill @ fill), 1)
    whole = ndimage.uniform_filter(inside.astype(np.float32), _PERIOD) > 0.999
    if not whole.any():
        return None
    wave = np.exp(2j * np.pi * np.arange(len(pixels)) / _PERIOD)
    rows, columns = (
        np.hypot(*(ndimage.uniform_filter(part, _PERIOD) for part in ((shade * w).real, (shade * w).imag)))[whole].mean()
        for w in (wave[:, None], wave[None, :])
    )
    if rows < _AMPLITUDE:
        return None
    return "dotted" if columns > 0.5 * rows else "striped"
