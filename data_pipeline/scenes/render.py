"""Rendering a scene by anti-aliased signed distances, at any resolution.

Distances are evaluated only where the object is.
"""

import functools

import numpy as np

from data_pipeline.io.errors import InputError
from data_pipeline.scenes.grammar import Object, Scene

RGB = {
    "red": (218, 32, 38),
    "orange": (255, 138, 0),
    "yellow": (250, 224, 30),
    "green": (24, 150, 56),
    "cyan": (40, 212, 226),
    "blue": (38, 72, 218),
    "purple": (124, 34, 168),
    "pink": (255, 132, 192),
}
# of `grammar.NEW_COLOURS`; the packaged autoencoder was trained without it and can still draw it
NEW_RGB = {"teal": (16, 124, 124)}
BACKGROUND_RGB = {
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "black": (0, 0, 0),
    "beige": (226, 205, 168),
}
OUTLINE_RGB = {"white": (255, 255, 255), "black": (0, 0, 0)}
OUTLINE_WIDTH = 0.015  # sides of the image, outside the shape: 1.9 px at 128²
# Textures are on a grid that is fixed in the image: period 4 px at 128², symmetric about the points
# where a 64² image has its pixel centres. There any symmetric filter gives their mean, so halving
# 128² erases them exactly with any filter. Both have the same mean (0.8 of the colour), so that not
# even the tone of the 64² image distinguishes stripes from dots.
TEXTURE_PERIOD = 1 / 32
STRIPE_SHARE, STRIPE_SHADE = 1 / 2, 0.6
DOT_SHARE, DOT_SHADE = 1 / 3, 0.4


def render(scene: Scene, size: int) -> np.ndarray:
    """Return the scene as uint8 [size, size, 3] in sRGB.

    It is the same picture at every size, up to the detail that the size can show.

    Raises:
        InputError: size is outside 16..4096.
    """
    if not 16 <= size <= 4096:
        raise InputError(f"size = {size}: give 16..4096 pixels per side")
    pixels = np.empty((size, size, 3), np.float32)
    pixels[:] = BACKGROUND_RGB[scene.background]
    for o in scene.objects:
        _draw_object(pixels, o, size)
    return (pixels + 0.5).astype(np.uint8)


def _draw_object(pixels: np.ndarray, o: Object, size: int) -> None:
    """Draw one object over pixels [size, size, 3], inside its bounding box."""
    reach = 1.2 * o.radius + OUTLINE_WIDTH + 1 / size
    x0, x1 = (
        int(np.clip(np.floor((o.cx + side) * size), 0, size)) for side in (-reach, reach + 1 / size)
    )
    y0, y1 = (
        int(np.clip(np.floor((o.cy + side) * size), 0, size)) for side in (-reach, reach + 1 / size)
    )
    x = ((np.arange(x0, x1, dtype=np.float32) + 0.5) / size - o.cx)[None, :]
    y = ((np.arange(y0, y1, dtype=np.float32) + 0.5) / size - o.cy)[:, None]
    d = SHAPES[o.shape](x, y, np.float32(o.radius)) * size  # pixels; negative inside
    box = pixels[y0:y1, x0:x1]
    colour = np.asarray((RGB | NEW_RGB)[o.colour], np.float32)
    if o.outline:
        _over(
            box,
            np.asarray(OUTLINE_RGB[o.outline], np.float32),
            _coverage(d - np.float32(OUTLINE_WIDTH * size)),
        )
    if o.texture:
        colour = colour * _shading(o.texture, size)[y0:y1, x0:x1, None]
    _over(box, colour, _coverage(d))


def _coverage(d: np.ndarray) -> np.ndarray:
    """Return the share of a pixel inside an edge at distance d pixels from its centre."""
    return np.clip(0.5 - d, 0, 1)


def _over(box: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    box += alpha[..., None] * (colour - box)


@functools.lru_cache(maxsize=8)
def _shading(texture: str, size: int) -> np.ndarray:
    """Return the factor of a texture on the colour, float32 [size, size].

    Each pixel is the mean of 8×8 points.
    """
    fine = 8
    step = 1 / (size * fine)
    # phase in periods, 0 in the middle of a band or dot
    phase = ((np.arange(size * fine) + 0.5) * step / TEXTURE_PERIOD) % 1 - 0.5
    if texture == "striped":
        dark = (np.abs(phase) < STRIPE_SHARE / 2).reshape(size, fine).mean(1)
        shading = np.repeat((1 - (1 - STRIPE_SHADE) * dark)[:, None], size, 1)
    else:
        radius_squared = DOT_SHARE / np.pi  # area of a dot = DOT_SHARE of its cell
        square = (phase**2).reshape(size, fine)
        dark = np.zeros((size, size))
        # one sub-row and sub-column at a time, because the full grid of a large image would not fit
        for i in range(fine):
            for j in range(fine):
                dark += square[:, i, None] + square[None, :, j] < radius_squared
        shading = 1 - (1 - DOT_SHADE) * dark / fine**2
    shading = shading.astype(np.float32)
    shading.flags.writeable = False  # shared by all callers
    return shading


# Signed distances: x [1, w], y [h, 1] relative to the centre, y downwards, and a scalar r → [h, w].
# All shapes of one r look about equally large, and stay within 1.2 r.


def _circle(x, y, r):
    return np.hypot(x, y) - r


def _ring(x, y, r):
    return np.abs(np.hypot(x, y) - 0.77 * r) - 0.23 * r


def _box(x, y, half_x, half_y):
    qx, qy = np.abs(x) - half_x, np.abs(y) - half_y
    return np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0)


def _square(x, y, r):
    return _box(x, y, 0.84 * r, 0.84 * r)


def _cross(x, y, r):
    return np.minimum(_box(x, y, r, 0.33 * r), _box(x, y, 0.33 * r, r))


def _triangle(x, y, r):
    angles = np.pi * np.array([-1 / 2, 1 / 6, 5 / 6])
    return _polygon(x, y, 1.12 * r * np.cos(angles), 1.12 * r * np.sin(angles))


def _star(x, y, r):
    angles = np.pi * (np.arange(10) / 5 - 1 / 2)
    radii = np.where(np.arange(10) % 2, 0.46, 1.08) * r
    return _polygon(x, y, radii * np.cos(angles), radii * np.sin(angles))


def _polygon(x, y, corners_x, corners_y):
    """Return the distance to the nearest edge, negative inside.

    A point is inside if an odd number of edges is to the right of it.
    """
    squared = np.float32(np.inf)
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    corners = np.stack([corners_x, corners_y], 1).astype(np.float32)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        ex, ey = bx - ax, by - ay
        t = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        squared = np.minimum(squared, (x - ax - t * ex) ** 2 + (y - ay - t * ey) ** 2)
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey)
    return np.where(inside, -1, 1) * np.sqrt(squared)


SHAPES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}
