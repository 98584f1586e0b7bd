"""Pictures for people: contact sheets of rows of images, with labels, as PNG."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from data_pipeline.images import labels
from data_pipeline.images.labels import LINE
from data_pipeline.io.errors import naming
from data_pipeline.io.files import replacing

GAP = 4
MIN_LABEL, MAX_LABEL = 90, 900  # pixels of a row's label; a longer one ends with "…"
MIN_CAPTION = 70  # pixels of a column's caption


def contact_sheet(
    rows_of_images: Sequence[np.ndarray],
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    side: int | None = None,
) -> np.ndarray:
    """Return rows of uint8 [N, H, W, 3] images under one another, with labels.

    The longer side of each image is enlarged to `side` (default: the longest of all). `rows` labels
    each row at its left, `columns` each column above, wrapped. The result is uint8 [H', W', 3].
    """
    side = side or max(max(images.shape[1:3]) for images in rows_of_images)
    sizes = [_fitted(images.shape[1:3], side) for images in rows_of_images]
    high, wide = (max(one) for one in zip(*sizes, strict=True))
    names = [_narrow(text, max(high // LINE, 1)) for text in rows]
    left = GAP + max((MIN_LABEL, *(_width(lines) for lines in names))) if rows else 0
    captions = [labels.wrap(text, max(wide, MIN_CAPTION)) for text in columns]
    pitch = GAP + max((wide, *(_width(lines) for lines in captions)))
    top = LINE * max((len(lines) for lines in captions), default=0) + (GAP if columns else 0)
    count = max(len(images) for images in rows_of_images)
    sheet = Image.new(
        "RGB", (left + count * pitch + GAP, top + len(rows_of_images) * (high + GAP) + GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for column, lines in enumerate(captions):
        labels.write(draw, (left + GAP + column * pitch, GAP), lines)
    for row, images in enumerate(rows_of_images):
        y = top + GAP + row * (high + GAP)
        if rows:
            middle = y + (high - LINE * len(names[row])) // 2
            labels.write(draw, (GAP, middle), names[row])
        for column, image in enumerate(images):
            picture = Image.fromarray(image).resize(sizes[row][::-1], Image.Resampling.NEAREST)
            sheet.paste(picture, (left + GAP + column * pitch, y))
    return np.asarray(sheet)


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (height, width) scaled so that the longer is `side`."""
    return tuple(max(round(one * side / max(size)), 1) for one in size)


def _narrow(text: str, lines: int) -> list[str]:
    """Return the text in the narrowest lines that make no more than `lines` of them."""
    width = MIN_LABEL
    while width < MAX_LABEL and len(labels.wrap(text, width)) > lines:
        width = min(MAX_LABEL, width + max(6, width // 10))
    return labels.wrap(text, width, lines)


def _width(lines: list[str]) -> int:
    return max((math.ceil(labels.width_of(line)) for line in lines), default=0)


def save_png(
    path: Path,
    image: np.ndarray,
    place: Path | None = None,
    texts: Mapping[str, str] = MappingProxyType({}),
) -> np.ndarray:
    """Write uint8 [H, W, 3] or [H, W, 4] as PNG, making its directory. Returns the image.

    The name appears when the file is complete and on the disk. Until then the file is in `place`, a
    directory of the same file system (default: the same one, under a name that begins with a dot).
    texts: by keyword, written as UTF-8 (iTXt).
    """
    info = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        info.add_itxt(keyword, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp") if place is None else place / path.name
    with (
        replacing(path, beside, durable=True) as temporary,
        naming(path),
        temporary.open("wb") as file,
    ):
        Image.fromarray(image).save(file, "PNG", pnginfo=info)
    return image
