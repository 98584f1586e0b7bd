"""Pictures for people: contact sheets of rows of images, with labels, as PNG."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipeline.io.errors import naming
from data_pipeline.io.files import replacing

GAP = 4
LINE = 15  # pixels from one line of a label to the next


def contact_sheet(
    rows_of_images: Sequence[np.ndarray],
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    side: int | None = None,
) -> np.ndarray:
    """Rows of uint8 [N, H, W, 3] images under one another, each enlarged to the same `side`
    (default: the largest), labelled.

    `rows` labels each row at its left, `columns` each column above, wrapped. Returns uint8 [H', W',
    3].
    """
    side = side or max(images.shape[1] for images in rows_of_images)
    font = ImageFont.load_default(size=12)
    names = [_narrow(text, side // LINE) for text in rows]
    left = (
        max((96, *(GAP + int(font.getlength(line)) for lines in names for line in lines)))
        if rows
        else 0
    )
    captions = [textwrap.wrap(text, max(side // 7, 10)) for text in columns]
    pitch = GAP + max(
        (side, *(int(font.getlength(line)) + 1 for lines in captions for line in lines))
    )
    top = LINE * max((len(lines) for lines in captions), default=0) + (GAP if columns else 0)
    count = max(len(images) for images in rows_of_images)
    sheet = Image.new(
        "RGB", (left + count * pitch + GAP, top + len(rows_of_images) * (side + GAP) + GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for column, lines in enumerate(captions):
        draw.multiline_text(
            (left + GAP + column * pitch, GAP), "\n".join(lines), fill="black", font=font, spacing=1
        )
    for row, images in enumerate(rows_of_images):
        y = top + GAP + row * (side + GAP)
        if rows:
            middle = y + (side - LINE * len(names[row])) // 2
            draw.multiline_text(
                (GAP, middle), "\n".join(names[row]), fill="black", font=font, spacing=1
            )
        for column, image in enumerate(images):
            picture = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(picture, (left + GAP + column * pitch, y))
    return np.asarray(sheet)


def _narrow(text: str, lines: int) -> list[str]:
    """The text in as narrow lines as make no more than `lines` (or 1) of them, from 13 letters
    on.
    """
    return next(
        wrapped
        for width in range(13, len(text) + 14)
        if len(wrapped := textwrap.wrap(text, width)) <= max(lines, 1)
    )


def save_png(path: Path, image: np.ndarray, place: Path | None = None) -> np.ndarray:
    """Write uint8 [H, W, 3] as PNG, making its directory; returns the image.

    The name appears when the file is whole and on the disk; until then it is in `place`, a
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
