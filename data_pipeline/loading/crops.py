"""Cropping a record's image for a step, with the sizes that tell the model about the crop."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.images.decode import decode_layers, decode_rgb, open_image, upright_size
from data_pipeline.io.errors import InputError
from data_pipeline.loading.settings import CropSettings
from data_pipeline.records.records import Record, captions


def crop(
    source: Sequence[Record],
    index: int,
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    settings: CropSettings,
    with_caption: bool = True,
    several: bool = True,
) -> dict[str, np.ndarray | str]:
    """Decode record `index` and crop it to `size`: a `loader.Prepare`.

    Returns:
        image uint8 [H, W, 3], sizes int32 [6] and, with `with_caption`, caption str: with `several`
        any of the source's captions, see `choose_caption`. With `settings.alpha` also mask uint8
        [H, W]: the alpha channel, 255 where an image has none.

    Raises:
        InputError: the record or its image is damaged.
    """
    record = source[index]
    # All five are always drawn and in this order, so that an option that is switched off does not
    # change the other choices.
    share, across, down, mirror, recaption = rng.random(5)
    if settings.zoom_levels:
        share = int(share * settings.zoom_levels) / (settings.zoom_levels - 1)
    low, high = settings.zoom
    try:
        image, sizes = fit(
            record["image"],
            size,
            zoom=low + share * (high - low),
            position=(down, across) if settings.random_crop else (0.5, 0.5),
            grid=settings.crop_grid,
            mirror=settings.flip and mirror < 0.5,
            alpha=settings.alpha,
        )
    except InputError as e:
        name = getattr(source, "name", "the given records")
        raise InputError(
            f"record {record['key']!r} of {name}: {e}; pack the data again without it"
        ) from e
    out = {"image": image, "sizes": sizes}
    if settings.alpha:
        out |= {"image": np.ascontiguousarray(image[..., :3]), "mask": image[..., 3].copy()}
    if with_caption:
        out["caption"] = choose_caption(record, recaption, settings.recaption_prob, several=several)
    return out


def choose_caption(
    record: Mapping[str, Any], draw: float, recaption_prob: float, *, several: bool
) -> str:
    """Return the recaption with probability `recaption_prob`, else one of the source's captions.

    Each of these is equally likely; without `several` it is always the first. A record without a
    recaption gives one of the source's captions. `draw` is uniform in [0, 1) and decides both.
    """
    if record["recaption"]:
        if draw < recaption_prob:
            return record["recaption"]
        draw = (draw - recaption_prob) / (1 - recaption_prob)  # the remainder is uniform again
    if not several:
        return record["caption"]
    each = captions(record)
    return each[min(int(draw * len(each)), len(each) - 1)]


def fit(
    data: bytes,
    size: int | tuple[int, int],
    *,
    zoom: float = 1.0,
    position: tuple[float, float] = (0.5, 0.5),
    grid: int = 1,
    mirror: bool = False,
    reduced: bool = True,
    alpha: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Decode an image, resize it until it just covers round(size × zoom), and crop it.

    Args:
        data: an encoded image.
        size: the crop's (height, width), or the side of a square crop, in pixels.
        zoom: the size of the resized image relative to the crop, at least 1.
        position: the position of the window, (down, across), from 0 (top, left) to 1.
        grid: the corner of the window is at multiples of this many pixels of the resized image.
        mirror: flip left and right before the crop, so that the crop's corner is that of the
            picture as it is seen.
        reduced: decode a JPEG at 1/2, 1/4 or 1/8 where that leaves it no smaller than it is resized
            to. It takes half of the time for 256² from 512 to 1024 pixels, and is as close to
            Lanczos as a box filter (docs/decisions/loading.md). Without it, the image is always
            decoded at full size.
        alpha: return the alpha channel as a fourth one, 255 where there is none; the colours are
            then those of the file, and not on white.

    Returns:
        uint8 [height, width, 3 or 4], and int32 [6] = original height, width, crop top, left,
        target height, width.

    Raises:
        InputError: the image is damaged, too large, or so long that the position of the corner
            exceeds an int32.
    """
    high, wide = (size, size) if isinstance(size, int) else size
    opened = open_image(data)
    height, width = upright_size(opened)
    least = (round(wide * zoom), round(high * zoom))
    scale = max(least[0] / width, least[1] / height)
    resized = (max(least[0], round(width * scale)), max(least[1], round(height * scale)))
    if max(resized) > np.iinfo(np.int32).max:
        raise InputError(
            f"image of {width}x{height} pixels is too long to be resized to a short side of"
            f" {min(resized)} pixels"
        )
    short, clear = min(resized) if reduced else None, None
    if alpha:
        image, clear = decode_layers(opened, short_side=short)
        image = image if image.mode == "RGB" else image.convert("RGB")
    else:
        image = decode_rgb(opened, short_side=short)
    rooms = ((resized[1] - high) // grid, (resized[0] - wide) // grid)
    top, left = (
        grid * min(int(p * (room + 1)), room) for p, room in zip(position, rooms, strict=True)
    )
    # Only the window is resized and not the whole image, because a strip of 200000x1 pixels would
    # need 146 GiB for 512 rows. The filter still sees the pixels around the window, so the result
    # equals resizing everything and then cropping.
    start = resized[0] - wide - left if mirror else left
    part = _part((width, height), image.size)
    # pixels of the decoded image per pixel of the resized one
    across, down = width / part / resized[0], height / part / resized[1]
    box = (
        start * across,
        top * down,
        min((start + wide) * across, width / part),
        min((top + high) * down, height / part),
    )
    if (across, down) == (1.0, 1.0):  # Lanczos would return the same pixels
        image = image.crop((start, top, start + wide, top + high))
    else:
        # reducing_gap: first a fast box reduction to at least 3 times the size of the result, which
        # makes no visible difference
        image = image.resize((wide, high), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    if alpha:
        # on its own: as RGBA the colours would be weighted by it, and lost where it is 0. Linear,
        # because Lanczos overshoots at the edge of a mask.
        linear = Image.Resampling.BILINEAR
        full = Image.new("L", image.size, 255)
        image.putalpha(full if clear is None else clear.resize((wide, high), linear, box=box))
    if mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image), np.array([height, width, top, left, high, wide], np.int32)


def _part(whole: tuple[int, int], decoded: tuple[int, int]) -> int:
    """Return 1, 2, 4 or 8, the divisor at which a JPEG was decoded.

    Sides are rounded up: one of 65 pixels has 9 at 1/8, which is nearer to 1/7.
    """
    for part in (1, 2, 4, 8):
        if decoded == tuple(-(-side // part) for side in whole):
            return part
    raise InputError(
        f"image of {whole[0]}x{whole[1]} pixels decodes to {decoded[0]}x{decoded[1]} pixels, which"
        " is not 1/1, 1/2, 1/4 or 1/8 of it"
    )
