"""Recognising the shape of a silhouette by synthesis: every shape is fitted, the best overlap wins.

The best fit names the shape if it is good enough. A fit has a centre and a radius. It is tried with
and without an outline (which rounds and thickens), and with sharp and soft corners: a drawn corner
is sharp, a decoded one is not. The distances are the renderer's own.
"""

import dataclasses
import functools

import numpy as np
from scipy import ndimage

from data_pipeline.scenes.render import OUTLINE_WIDTH, SHAPES

# the mean error of the edge in pixels up to which a shape is recognised, and that of a circle
_ASTRAY = 0.5, 0.42
_OVERLAP = 0.74  # the intersection over union that is needed in any case
# circumference / area · radius
_EDGE = {"circle": 2.0, "square": 2.38, "triangle": 3.57, "star": 5.19, "cross": 3.65, "ring": 4.35}
# the largest error (1 - overlap) of the shape relative to that of the next shape, and to that of
# the best of _OTHERS
_LEAD, _OTHER = 0.85, 1.05
# the largest share of 3 × 3 pixels that may be covered wrongly or wrongly not covered: an arm, a
# piece of a ring
_MISSING = 0.8
_CORNERS = (0.14, 0.0)  # blur that rounds the corners, in radii
_STEP, _REACH = 1 / 80, 1.7  # step and half width of the tables, in radii


@dataclasses.dataclass(frozen=True)
class Fit:
    """The likeliest shape of a silhouette. Lengths are in pixels."""

    shape: str
    clear: bool  # good enough, and better than every other
    overlap: float  # intersection over union, 0..1
    x: float
    y: float
    radius: float  # of the fill


def _pentagon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    normals = 2 * np.pi / 5 * (np.arange(5) + 0.5)
    return np.max([x * np.sin(a) - y * np.cos(a) for a in normals], 0) < 0.87


# Other figures that resemble a shape. They are fitted too, so that a blob has to be more like a
# shape than like these. (x, y) → inside
_OTHERS = {
    "diamond": lambda x, y: np.abs(x) + np.abs(y) < 1.1,
    "pentagon": _pentagon,
    "dome": lambda x, y: (
        np.where(y < 0, np.hypot(x, y), np.maximum(np.abs(x), y * (0.85 / 0.75))) < 0.85
    ),
}
_NAMES = (*SHAPES, *_OTHERS)


@functools.cache
def _tables() -> np.ndarray:
    """Return the signed distance at radius 1 and its derivatives by x and y, within ±_REACH.

    float32 [3, 2 corners, shapes and others, N (y), N (x)].
    """
    at = (np.arange(round(2 * _REACH / _STEP) + 1) * _STEP - _REACH).astype(np.float32)
    x, y = at[None, :], at[:, None]
    tables = []
    for soft in _CORNERS:
        for name in _NAMES:
            d = SHAPES[name](x, y, np.float32(1)) if name in SHAPES else None
            if soft or name in _OTHERS:  # the distance to where the blurred shape is half there
                inside = d < 0 if name in SHAPES else _OTHERS[name](x, y)
                inside = ndimage.gaussian_filter(inside.astype(np.float32), soft / _STEP) > 0.5
                d = np.where(
                    inside,
                    0.5 - ndimage.distance_transform_edt(inside),
                    ndimage.distance_transform_edt(~inside) - 0.5,
                )
                d = ndimage.gaussian_filter(d * _STEP, 1)
            gy, gx = np.gradient(d, _STEP)
            tables.append(np.stack([d, gx, gy]).astype(np.float32))
    return np.stack(tables, 1).reshape(3, len(_CORNERS), len(_NAMES), len(at), len(at))


@functools.cache
def _areas() -> np.ndarray:
    """Return the areas of the shapes and others at radius 1."""
    return (_tables()[0, 0] < 0).sum((1, 2)) * _STEP**2


def fit_shape(whole: np.ndarray, fill: np.ndarray | None = None, *, weight: np.ndarray) -> Fit:
    """Fit all shapes to what a thing covers, and return the best.

    whole: [h, w] in 0..1, the pixels that the thing covers, outline included. fill: where an
    outline is seen around it, what its fill covers. Pixels are 64ths of an image's side; those of
    weight [h, w] 0 are ignored.
    """
    weight = weight.astype(np.float32).ravel()
    targets = [whole.astype(np.float32).ravel() * weight] * 2
    # the silhouette is a fill, or an outline around it is part of it
    edges = [0, OUTLINE_WIDTH * 64]
    if fill is not None:
        targets.append(fill.astype(np.float32).ravel() * weight)
        edges.append(0)
    y, x = (a.ravel().astype(np.float32) + 0.5 for a in np.indices(whole.shape))

    # first all shapes with soft corners and without outline, from the silhouette's centre and area;
    # then the likeliest two in all variants
    names, total = np.arange(len(_NAMES)), max(float(targets[0].sum()), 1.0)
    start = np.empty((len(names), 3))
    start[:, 0], start[:, 1] = (targets[0] * x).sum() / total, (targets[0] * y).sum() / total
    start[:, 2] = np.sqrt(total / _areas())
    found, overlap, _ = _gauss_newton(
        start, names, np.zeros(len(names)), x, y, targets[0], weight, (3.0, 1.0)
    )
    likely = np.argsort(overlap[: len(SHAPES)])[-2:]
    grid = np.meshgrid(likely, (0, 1), np.arange(len(edges)), indexing="ij")  # shape, corners, way
    name, corner, way = (
        np.concatenate([a.ravel(), b])
        for a, b in zip(
            grid, ([len(SHAPES) + overlap[len(SHAPES) :].argmax()] * 2, (0, 1), (0, 0)), strict=True
        )
    )
    edge = np.array(edges)[way]
    start = found[name]
    start[:, 2] = np.maximum(start[:, 2] - edge, 2)
    target = np.stack(targets)[way]
    found, overlap, cover = _gauss_newton(
        start, name + len(_NAMES) * corner, edge, x, y, target, weight, (2.0, 1.0, 1.0)
    )

    # hypothesis
    best = {n: np.flatnonzero(name == n)[overlap[name == n].argmax()] for n in np.unique(name)}
    other = best.pop(name[-1])
    first, second, *_ = sorted(best.values(), key=lambda i: -overlap[i])
    shape, error = _NAMES[name[first]], 1 - overlap[first]
    needed = max(_OVERLAP, 1 - _ASTRAY[shape == "circle"] * _EDGE[shape] / found[first, 2])
    wrong = np.abs(
        ndimage.uniform_filter((target[first] - cover[first]).reshape(whole.shape), 3)
    ).max()
    clear = (
        1 - error >= needed
        and error <= _LEAD * (1 - overlap[second])
        and error <= _OTHER * (1 - overlap[other])
        and wrong < _MISSING
    )

    of_fill = np.flatnonzero((name == name[first]) & (way == (0 if fill is None else 2)))
    radius = found[of_fill[overlap[of_fill].argmax()], 2]
    return Fit(
        shape,
        bool(clear),
        float(overlap[first]),
        float(found[first, 0]),
        float(found[first, 1]),
        float(radius),
    )


def _gauss_newton(
    p, table, edge, x, y, target, weight, softness
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the least squares fit of p [H, (x, y, radius)], for H hypotheses at once.

    One step is taken for each softness of the edge, in pixels; a soft edge attracts a hypothesis
    that is far off. Returns p, the overlap [H] with the target ([n] or [H, n]), and what p covers,
    [H, n].
    """
    distance, by_x, by_y = (table_of.ravel() for table_of in _tables())
    n = _tables().shape[-1]
    first = (table * n * n).astype(np.int32)[:, None]
    p, edge = p.copy(), edge[:, None].astype(np.float32)
    for soft in (*softness, None):
        cx, cy, r = (v[:, None].astype(np.float32) for v in p.T)
        u, v = (x - cx) / r, (y - cy) / r
        column, row = (
            np.minimum(np.maximum((w + _REACH) * (1 / _STEP) + 0.5, 0), n - 1).astype(np.int32)
            for w in (u, v)
        )
        at = first + row * n + column
        unit = distance.take(at)
        d = r * unit - edge
        if soft is None:
            cover = np.clip(0.5 - d, 0, 1) * weight
            return (
                p,
                np.minimum(cover, target).sum(1)
                / np.maximum(np.maximum(cover, target).sum(1), 1e-6),
                cover,
            )
        gx, gy = by_x.take(at), by_y.take(at)
        cover = np.clip(0.5 - d * (1 / soft), 0, 1)
        slope = (np.abs(d) < soft / 2) * (weight / soft)
        # derivative of the cover by x, y, radius
        jac = np.stack([slope * gx, slope * gy, slope * (u * gx + v * gy - unit)], 1)
        normal = jac @ jac.transpose(0, 2, 1) + 0.1 * np.eye(3, dtype=np.float32)
        step = np.linalg.solve(normal, jac @ (target - cover * weight)[..., None])[..., 0]
        p += np.clip(step, -2, 2)
        p[:, 2] = np.clip(p[:, 2], 2, 64)
