"""Reading a picture from its pixels alone: background, and each thing's colour, shape, size, place.

Everything but texture and outline is read at 64², to which larger pictures are averaged: there the
renderer's textures are gone exactly.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from data_pipeline.io.errors import InputError
from data_pipeline.scenes import grammar
from data_pipeline.scenes.render import BACKGROUND_RGB, NEW_RGB, OUTLINE_RGB, OUTLINE_WIDTH, RGB
from data_pipeline.scenes.shapes import fit_shape
from data_pipeline.scenes.textures import outline_of, signed_distance, texture_of

SIDE = 64
# smallest RGB distance that counts; the renderer's closest pair, half covered, has 41
_CONTRAST = 40
_SPECK = 20  # fewer pixels at 64² are not a thing
# fewer pixels are a thing only if it is neither faint nor thin; the smallest object has 120
_SMALL = 80
_CROWD = 8  # the most things that are looked at, the largest ones
_FAINT = 60  # a smaller mean contrast is faint; pink on beige has 82
_EDGE = OUTLINE_WIDTH * SIDE
_SIZE_RANGE = (0.075, 0.26)  # radii, in sides, outside which a thing is neither small nor large
_SIZE_MIDDLE = (grammar.SIZES["small"][1] + grammar.SIZES["large"][0]) / 2
_SHARPEN = 1.5  # slope by which the covered share of a pixel is sharpened
_BACKGROUND_REACH, _COLOUR_REACH = 45, 75  # RGB distances
_MAJORITY = 0.65  # smallest share of a thing's pixels that have its colour
_SHADE = (0.75, 1.05)  # the range of factors on a palette colour; 0.8 is the mean of a texture


@dataclasses.dataclass(frozen=True)
class Thing:
    """One thing in a picture; what is unclear is None.

    Lengths are in sides of the image; y grows downwards. Texture and outline are searched only at
    128² and above, where None also means that it has none.
    """

    colour: str | None
    shape: str | None
    size: str | None
    x: float
    y: float
    radius: float
    overlap: float  # intersection over union with the best shape, 0..1
    texture: str | None = None
    outline: str | None = None


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a picture shows, with its things from left to right."""

    background: str | None
    things: tuple[Thing, ...]
    closely: bool  # 128² or more: textures and outlines were searched


def see(image: np.ndarray, new: tuple[str, ...] = ()) -> Seen:
    """Return what a picture shows; it is uint8 [S, S, 3] with S = 64, 128, 256 and so on.

    new: those of `grammar.NEW_COLOURS` that things may have too.

    Raises:
        InputError: it is not such an image.
    """
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
    ):
        raise InputError(
            f"the judge needs uint8 [S, S, 3], not {getattr(image, 'dtype', type(image).__name__)}"
            f" {list(np.shape(image))}"
        )
    side = image.shape[0]
    if image.shape[1] != side or side < SIDE or side % SIDE or (side > SIDE and side % (2 * SIDE)):
        raise InputError(
            "the judge needs square images of 64, 128 or a multiple of 128 pixels per side, not"
            f" {image.shape[1]}×{side}"
        )
    pixels = _reduced(image, SIDE)
    rim = np.concatenate(
        [
            pixels[:2].reshape(-1, 3),
            pixels[-2:].reshape(-1, 3),
            pixels[:, :2].reshape(-1, 3),
            pixels[:, -2:].reshape(-1, 3),
        ]
    )
    ground = np.median(rim, 0)
    labels, count = _labelled(np.linalg.norm(pixels - ground, axis=-1))
    outside = ndimage.binary_dilation(labels > 0, iterations=2) == 0
    background = _background(pixels[outside], ground) if outside.any() else None

    fine = _reduced(image, 2 * SIDE) if side > SIDE else None
    things, palette = [], RGB | {name: NEW_RGB[name] for name in new}
    for label in range(1, count + 1):
        for own in _separate(labels == label, pixels, ground, labels):
            things.append(_thing(pixels, fine, ground, own, labels, palette))
    return Seen(background, tuple(sorted(things, key=lambda t: t.x)), fine is not None)


def _reduced(image: np.ndarray, side: int) -> np.ndarray:
    """Return the means of blocks, float32 [side, side, 3]."""
    k = image.shape[0] // side
    return image.reshape(side, k, side, k, 3).astype(np.float32).mean((1, 3))


def _background(pixels: np.ndarray, ground: np.ndarray) -> str | None:
    """Return the name of the background of pixels [n, 3] outside all things, or None."""
    names, colours = list(BACKGROUND_RGB), np.array(list(BACKGROUND_RGB.values()))
    ground = (ground + np.median(pixels, 0)) / 2
    distance = np.linalg.norm(colours - ground, axis=1)
    uniform = np.mean(np.linalg.norm(pixels - ground, axis=1) < _CONTRAST) > 0.9
    return names[distance.argmin()] if distance.min() < _BACKGROUND_REACH and uniform else None


def _labelled(contrast: np.ndarray) -> tuple[np.ndarray, int]:
    """Return labels of connected things [64, 64], and their number.

    contrast: [64, 64], to the background.
    """
    mask = contrast > _CONTRAST
    near = ndimage.maximum_filter(contrast * mask, 5)
    # a pixel at the edge belongs to a thing if it has half the contrast of its surroundings
    for _ in range(3):
        edge = mask & ~ndimage.binary_erosion(mask)
        mask &= ~(edge & (contrast < 0.5 * near))
    # where fill and outline mix to the colour of the background, a crack opens; the hole of a ring
    # is wider
    holes, number = ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)
    if number:
        wide = np.unique(holes[ndimage.binary_erosion(holes > 0)])
        mask |= (holes > 0) & ~np.isin(holes, wide)
    labels, number = ndimage.label(mask)
    area, core = (
        np.bincount(at.ravel(), minlength=number + 1)[1:]
        for at in (labels, labels * ndimage.binary_erosion(mask))
    )
    strength = np.bincount(labels.ravel(), contrast.ravel(), minlength=number + 1)[1:] / np.maximum(
        area, 1
    )
    solid = (strength >= _FAINT) & (core > 0)
    keep = np.flatnonzero((area >= _SPECK) & (solid | (area >= _SMALL))) + 1
    keep = keep[np.argsort(-area[keep - 1])[:_CROWD]]
    order = np.zeros(number + 1, int)
    order[keep] = np.arange(1, len(keep) + 1)
    return order[labels], len(keep)


def _coverage(
    pixels: np.ndarray, ground: np.ndarray, own: np.ndarray, depth: np.ndarray, outline: str | None
) -> list[np.ndarray]:
    """Return the share of every pixel that a thing covers, float32 [h, w].

    With an outline, also the share that its fill covers. Pixels are unmixed into fill, outline and
    background. Shares are moved away from a half, which sharpens a blurred edge.
    """
    near = ndimage.binary_dilation(own, iterations=2)
    mixed = pixels[near] - ground
    fill = np.median(pixels[own & _inside(depth)], 0) - ground
    share = alone = mixed @ fill / max(float(fill @ fill), 1)
    if outline:
        line = np.subtract(OUTLINE_RGB[outline], ground)
        basis = np.stack([fill, line], 1)
        a, b = np.linalg.solve(basis.T @ basis + 25 * np.eye(2), basis.T @ mixed.T)
        share, alone = (
            np.where(b < 0, share, np.where(a < 0, mixed @ line / (line @ line), a + b)),
            np.where(b < 0, share, a),
        )
    covers = np.zeros((2 if outline else 1, *own.shape), np.float32)
    covers[:, near] = [
        np.clip(_SHARPEN * (s - 0.5) + 0.5, 0, 1) for s in ((share, alone) if outline else (share,))
    ]
    # inside, a colour between fill and background may be the half closed hole of a ring; any other
    # is a second colour
    inner = ndimage.binary_erosion(own)
    foreign = np.zeros_like(own)
    foreign[near] = np.linalg.norm(mixed - np.clip(share, 0, 1)[:, None] * fill, axis=1) > _CONTRAST
    # along an outline, outline and fill may mix to the colour of the background
    covers[0, inner & (foreign | (depth < 2.5) if outline else foreign)] = 1
    return list(covers)


def _separate(
    own: np.ndarray, pixels: np.ndarray, ground: np.ndarray, labels: np.ndarray
) -> list[np.ndarray]:
    """Return a thing's mask [64, 64], or two where it is two things that touch.

    Scenes keep a column between objects.
    """
    columns = np.flatnonzero(own.any(0))
    left, right = columns[0], columns[-1] + 1
    if right - left < 4 * grammar.SIZES["small"][0] * SIDE * 0.8:
        return [own]
    lo, hi = left + (right - left) // 4, right - (right - left) // 4
    heights = (np.linalg.norm(pixels - ground, axis=-1) * own).sum(0)
    neck = lo + int(heights[lo:hi].argmin())
    sides = min(heights[left:neck].max(initial=0), heights[neck + 1 : right].max(initial=0))
    if heights[neck] > 0.6 * sides:
        return [own]
    halves = [own & (np.arange(SIDE) < neck), own & (np.arange(SIDE) > neck)]
    narrow = heights[neck] <= 0.35 * sides
    if narrow or all(_thing(pixels, None, ground, half, labels).shape for half in halves):
        return [half for half in halves if half.sum() >= _SPECK]
    return [own]


def _inside(depth: np.ndarray) -> np.ndarray:
    """Return where a thing shows its fill and not its rim.

    depth: the distance to its edge in pixels of 64².
    """
    return depth >= min(2.0, 0.75 * depth.max())


def _box(own: np.ndarray) -> tuple[slice, slice]:
    """Return the bounding box of a mask, with a margin."""
    return tuple(slice(max(a.min() - 4, 0), min(a.max() + 5, SIDE)) for a in own.nonzero())


def _thing(
    pixels: np.ndarray,
    fine: np.ndarray | None,
    ground: np.ndarray,
    own: np.ndarray,
    labels: np.ndarray,
    palette: dict[str, tuple[int, int, int]] = RGB,
) -> Thing:
    box = _box(own)
    weight = (own | (labels == 0))[box]  # pixels of other things are ignored
    pixels, own = pixels[box], own[box]
    distance = signed_distance(own)
    covers = _coverage(pixels, ground, own, -distance, None)
    if fine is None:
        outline = outline_of(pixels, distance, ground, _EDGE)
    else:
        fine = fine[tuple(slice(2 * s.start, 2 * s.stop) for s in box)]
        outline = outline_of(fine, _finely(covers[0]), ground, 2 * _EDGE)
    if outline:
        covers = _coverage(pixels, ground, own, -distance, outline)
    texture = None if fine is None else texture_of(fine, _finely(covers[-1]))
    fit = fit_shape(*covers, weight=weight)
    x, y, radius = (box[1].start + fit.x) / SIDE, (box[0].start + fit.y) / SIDE, fit.radius / SIDE
    size = None
    if _SIZE_RANGE[0] < radius < _SIZE_RANGE[1]:
        size = "small" if radius < _SIZE_MIDDLE else "large"
    shape = fit.shape if fit.clear else None
    return Thing(
        _colour(pixels[own], -distance[own], palette),
        shape,
        size,
        x,
        y,
        radius,
        fit.overlap,
        texture,
        None if fine is None else outline,
    )


def _finely(coverage: np.ndarray) -> np.ndarray:
    """Return the distance to the edge [2h, 2w] at 128², in its pixels, negative inside.

    coverage: [h, w] at 64².
    """
    return signed_distance(
        ndimage.zoom(coverage, 2, order=1, grid_mode=True, mode="grid-constant") > 0.5
    )


def _colour(pixels: np.ndarray, depth: np.ndarray, named: dict) -> str | None:
    """Return the colour of most of pixels [n, 3], without the rim, or None.

    depth: [n], the distance to the edge in pixels.
    """
    inside = pixels[_inside(depth)]
    palette = np.array(list(named.values()), np.float32)
    # the nearest shade of each colour
    shade = np.clip(inside @ palette.T / (palette**2).sum(1), *_SHADE)
    distance = np.linalg.norm(inside[:, None] - shade[..., None] * palette, axis=-1)
    nearest = np.where(distance.min(1) < _COLOUR_REACH, distance.argmin(1), len(palette))
    votes = np.bincount(nearest, minlength=len(palette) + 1)
    winner = int(votes.argmax())
    return (
        list(named)[winner]
        if winner < len(palette) and votes[winner] >= _MAJORITY * len(inside)
        else None
    )
