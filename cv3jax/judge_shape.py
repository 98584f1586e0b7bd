"""Which shape a silhouette is, by synthesis: every shape is fitted to it, and the best overlap names it, if it is good enough.

A fit has a centre and a radius, and comes with and without an outline (which rounds and thickens), with sharp and with soft
corners: a drawn corner is sharp, a decoded one is not. The distances are the renderer's own.
"""

import dataclasses
import functools

import numpy as np
from scipy import ndimage

from data_pipeline.scenes_render import OUTLINE_WIDTH, SHAPES

# Intersection over union that names a shape. Any blob overlaps a compact shape well; arms and holes are harder to hit.
_OVERLAP = {"circle": 0.87, "square": 0.87, "triangle": 0.82, "star": 0.80, "cross": 0.82, "ring": 0.80}
_LEAD = 0.85  # of the next shape's error (1 - overlap), the most that the best one's may be
_CORNERS = (0.14, 0.0)  # blur that rounds the corners, in radii
_STEP, _REACH = 1 / 80, 1.7  # of the tables, in radii


@dataclasses.dataclass(frozen=True)
class Fit:
    """The likeliest shape of a silhouette. Lengths in pixels."""

    shape: str
    clear: bool  # good enough, and better than every other
    overlap: float  # intersection over union, 0..1
    x: float
    y: float
    radius: float  # if the silhouette is the fill alone
    radius_outlined: float  # if an outline is part of it


@functools.cache
def _tables() -> np.ndarray:
    """float32 [2 corners, 6 shapes, N (y), N (x), 3]: signed distance at radius 1 and its derivatives by x and y, in ±_REACH."""
    at = (np.arange(round(2 * _REACH / _STEP) + 1) * _STEP - _REACH).astype(np.float32)
    tables = []
    for soft in _CORNERS:
        for shape in SHAPES.values():
            d = shape(at[None, :], at[:, None], np.float32(1))
            if soft:  # the distance to where the blurred shape is half there
                blurred = ndimage.gaussian_filter((d < 0).astype(np.float32), soft / _STEP) - 0.5
                inside = blurred > 0
                d = np.where(inside, 0.5 - ndimage.distance_transform_edt(inside), ndimage.distance_transform_edt(~inside) - 0.5)
                d = ndimage.gaussian_filter(d * _STEP, 1)
            gy, gx = np.gradient(d, _STEP)
            tables.append(np.stack([d, gx, gy], -1).astype(np.float32))
    return np.stack(tables).reshape(len(_CORNERS), len(SHAPES), len(at), len(at), 3)


@functools.cache
def _areas() -> np.ndarray:
    """Of the shapes at radius 1, [6]."""
    return (_tables()[0, ..., 0] < 0).sum((1, 2)) * _STEP**2


def fit_shape(coverage: np.ndarray, weight: np.ndarray) -> Fit:
    """Fits all shapes to coverage [h, w], 0..1, of 64ths of an image's side; pixels of weight [h, w] 0 say nothing."""
    side = OUTLINE_WIDTH * 64
    target = (coverage * weight).astype(np.float32).ravel()
    weight = weight.astype(np.float32).ravel()
    y, x = (a.ravel().astype(np.float32) + 0.5 for a in np.indices(coverage.shape))
    total = target.sum()

    # first all shapes with soft corners and no outline, from the silhouette's centre and area; then the three best, all ways
    table = np.arange(len(SHAPES))
    start = np.empty((len(table), 3))
    start[:, 0], start[:, 1] = (target * x).sum() / total, (target * y).sum() / total
    start[:, 2] = np.sqrt(total / _areas())
    found, overlap = _gauss_newton(start, table, np.zeros(len(table), np.float32), x, y, target, weight, (3.0, 1.0))
    chosen = np.argsort(overlap)[-3:]
    table = np.concatenate([chosen.repeat(2), chosen.repeat(2) + len(SHAPES)])
    edge = np.tile([0, side], 6).astype(np.float32)
    start = found[np.tile(chosen.repeat(2), 2)]
    start[:, 2] -= edge
    found, overlap = _gauss_newton(start, table, edge, x, y, target, weight, (2.0, 1.0, 1.0))

    overlap, found = overlap.reshape(2, 3, 2), found.reshape(2, 3, 2, 3)  # corners, shape, outline
    best = overlap.max((0, 2))
    second, first = np.argsort(best)[-2:]
    name = list(SHAPES)[chosen[first]]
    clear = best[first] >= _OVERLAP[name] and 1 - best[first] <= _LEAD * (1 - best[second])
    corners = overlap[:, first].argmax(0)  # the better ones, without and with an outline
    plain, outlined = (found[corners[i], first, i] for i in (0, 1))
    x, y = (outlined if overlap[:, first, 1].max() > overlap[:, first, 0].max() else plain)[:2]
    return Fit(name, bool(clear), float(best[first]), float(x), float(y), float(plain[2]), float(outlined[2]))


def _gauss_newton(p, table, edge, x, y, target, weight, softness) -> tuple[np.ndarray, np.ndarray]:
    """Least squares over p [H, (x, y, radius)], H hypotheses at once, one step for each softness of the edge, in pixels.

    A soft edge lets one that is far off pull too. Returns p and the overlap [H] with the target [n].
    """
    tables = _tables()
    n = tables.shape[2]
    flat, first = tables.reshape(-1, 3), (table * n * n).astype(np.int32)[:, None]
    p, edge = p.copy(), edge[:, None]
    for soft in (*softness, None):
        cx, cy, r = (v[:, None].astype(np.float32) for v in p.T)
        u, v = (x - cx) / r, (y - cy) / r
        column, row = (np.clip((w + _REACH) * (1 / _STEP) + 0.5, 0, n - 1).astype(np.int32) for w in (u, v))
        unit, gx, gy = np.moveaxis(flat[first + row * n + column], -1, 0)
        d = r * unit - edge
        if soft is None:
            cover = np.clip(0.5 - d, 0, 1) * weight
            return p, np.minimum(cover, target).sum(1) / np.maximum(cover, target).sum(1)
        cover = np.clip(0.5 - d * (1 / soft), 0, 1)
        slope = (np.abs(d) < soft / 2) * (weight / soft)
        jac = np.stack([slope * gx, slope * gy, slope * (u * gx + v * gy - unit)], 1)  # of the cover, by x, y, radius
        normal = jac @ jac.transpose(0, 2, 1) + 0.1 * np.eye(3, dtype=np.float32)
        step = np.linalg.solve(normal, jac @ (target - cover * weight)[..., None])[..., 0]
        p += np.clip(step, -2, 2)
        p[:, 2] = np.clip(p[:, 2], 2, 64)
