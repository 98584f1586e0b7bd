"""Pictures for people: contact sheets of rows of images, with labels, as PNG."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

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

    Each image is enlarged to the same `side` (default: the largest). `rows` labels each row at its
    left, `columns` each column above, wrapped. The result is uint8 [H', W', 3].
    """
    side = side or max(images.shape[1] for images in rows_of_images)
    names = [_narrow(text, max(side // LINE, 1)) for text in rows]
    left = GAP + max((MIN_LABEL, *(_width(lines) for lines in names))) if rows else 0
    captions = [labels.wrap(text, max(side, MIN_CAPTION)) for text in columns]
    pitch = GAP + max((side, *(_width(lines) for lines in captions)))
    top = LINE * max((len(lines) for lines in captions), default=0) + (GAP if columns else 0)
    count = max(len(images) for images in rows_of_images)
    sheet = Image.new(
        "RGB", (left + count * pitch + GAP, top + len(rows_of_images) * (side + GAP) + GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for column, lines in enumerate(captions):
        labels.write(draw, (left + GAP + column * pitch, GAP), lines)
    for row, images in enumerate(rows_of_images):
        y = top + GAP + row * (side + GAP)
        if rows:
            middle = y + (side - LINE * len(names[row])) // 2
            labels.write(draw, (GAP, middle), names[row])
        for column, image in enumerate(images):
            picture = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(picture, (left + GAP + column * pitch, y))
    return np.asarray(sheet)


def _narrow(text: str, lines: int) -> list[str]:
    """Return the text in the narrowest lines that make no more than `lines` of them."""
    width = MIN_LABEL
    while width < MAX_LABEL and len(labels.wrap(text, width)) > lines:
        width = min(MAX_LABEL, width + max(6, width // 10))
    return labels.wrap(text, width, lines)


def _width(lines: list[str]) -> int:
    return max((math.ceil(labels.width_of(line)) for line in lines), default=0)


def save_png(path: Path, image: np.ndarray, place: Path | None = None) -> np.ndarray:
    """Write uint8 [H, W, 3] as PNG, making its directory. Returns the image.

    The name appears when the file is complete and on the disk. Until then the file is in `place`, a
    directory of the same file system (default: the same one, under a name that begins with a dot).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp") if place is None else place / path.name
    with (
        replacing(path, beside, durable=True) as temporary,
        naming(path),
        temporary.open("wb") as file,
    ):
        Image.fromarray(image).save(file, "PNG")
    return image
