"""The edge and the fill of a thing: distance to the edge, outline around it, texture on it."""

import numpy as np
from scipy import ndimage

from data_pipeline.scenes.render import OUTLINE_RGB

_PERIOD = 4  # period of the textures, in pixels at 128²
# smallest amplitude of the first harmonic relative to the colour; rendered stripes have 0.18, dots
# 0.13, decoded plain fills 0.01
_AMPLITUDE = 0.035
_BINS = np.arange(-6, 4.01, 0.5)  # bins of the distance to the edge, in pixels


def signed_distance(own: np.ndarray) -> np.ndarray:
    """Return the distance in pixels from the edge of a mask [h, w], negative inside."""
    return np.where(
        own, 0.5 - ndimage.distance_transform_edt(own), ndimage.distance_transform_edt(~own) - 0.5
    )


def outline_of(
    pixels: np.ndarray, distance: np.ndarray, ground: np.ndarray, width: float
) -> str | None:
    """Return the outline of a thing, or None.

    pixels: [h, w, 3]. distance: [h, w], about 0 at the thing's edge, outline included. The mean
    colour at each distance from the edge is compared with the colours that a uniform fill, an
    outline of `width` pixels and the background would give, for several positions and softnesses of
    the edge. The colour of the fill is fitted.
    """
    near = (distance > _BINS[0]) & (distance < width + 2)
    bins = np.digitize(distance[near], _BINS) - 1
    count = np.bincount(bins)
    total = np.stack([np.bincount(bins, channel) for channel in (pixels[near] - ground).T], 1)
    used = count >= 3
    # [K], [K, 3]
    weight, profile = count[used].astype(np.float64), total[used] / count[used][:, None]
    at = (_BINS[:-1] + _BINS[1:])[: len(count)][used] / 2

    shift, soft = (
        a.ravel()[:, None] for a in np.meshgrid(np.arange(-1, width + 0.6, 0.5), (1.0, 2.0, 3.0))
    )
    outer = np.clip(0.5 - (at - shift) / soft, 0, 1)  # [hypotheses, K]
    errors = {}
    for name in (None, *OUTLINE_RGB):
        line = np.subtract(OUTLINE_RGB[name], ground) if name else np.zeros(3)
        if name and np.linalg.norm(line) < 60:
            continue
        inner = np.clip(0.5 - (at - shift + width) / soft, 0, 1) if name else outer
        rest = profile - (outer - inner)[..., None] * line
        fill = (
            np.einsum("k,hk,hkc->hc", weight, inner, rest)
            / np.maximum((weight * inner**2).sum(1), 1e-6)[:, None]
        )
        errors[name] = (
            (weight * ((rest - inner[..., None] * fill[:, None]) ** 2).sum(-1)).sum(1).min()
        )
    return min(errors, key=errors.get)


def texture_of(pixels: np.ndarray, distance: np.ndarray) -> str | None:
    """Return the texture of a thing in a picture of 128², "striped" or "dotted", or None.

    pixels: [h, w, 3]. distance: [h, w], negative inside the fill. Each window of one period is
    demodulated on its own, so that the phase may have any value and may drift. Stripes vary along y
    only.
    """
    inside = distance < -1
    whole = ndimage.uniform_filter(inside.astype(np.float32), _PERIOD) > 0.999
    if not whole.any():
        return None
    fill = pixels[inside].mean(0)
    shade = pixels @ fill / max(float(fill @ fill), 1)
    strength = []
    for axis in (0, 1):
        at = (
            np.arange(shade.shape[axis]).reshape(-1, 1)
            if axis == 0
            else np.arange(shade.shape[axis])
        )
        parts = (
            ndimage.uniform_filter(shade * wave(2 * np.pi / _PERIOD * at), _PERIOD)
            for wave in (np.cos, np.sin)
        )
        strength.append(np.hypot(*parts)[whole].mean())
    rows, columns = strength
    if rows < _AMPLITUDE:
        return None
    return "dotted" if columns > 0.5 * rows else "striped"
