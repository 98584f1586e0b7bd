"""Previews of a run, and one sheet of them over time: WORKDIR/previews/contact_sheet.png.

Every preview draws the same prompts with the same noise, so a column of the sheet shows how one
picture changes. The pictures of a step are kept as one PNG beside one another, in a folder of their
prompts: `rows/DIGEST/step_0000500.png`. Steps after the present one, which a resumed run has not
reached again, are not shown. Step 0 is the stage before it is trained, where that was drawn.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cv3jax.reports.pictures import contact_sheet, save_png
from data_pipeline.images.decode import MAX_IMAGE_BYTES, decode_rgb, open_image
from data_pipeline.io.errors import InputError
from data_pipeline.io.progress import say
from data_pipeline.io.regular_files import read_regular

SHEET, ROWS = "contact_sheet.png", "rows"
MOST_ROWS = 12  # steps of a sheet, evenly spaced; the first and the last are among them
_NAME = re.compile(r"step_(\d{7,})\.png")
_SMALL, _LARGE = 128, 256  # pixels of a picture's longer side on the sheet, at least and at most


class Preview(NamedTuple):
    """What a stage draws at a step, for people.

    Attributes:
        sheet: the preview itself, uint8 [H', W', 3].
        pictures: what the stage drew, uint8 [N, H, W, 3].
        captions: their captions.
        wanted: the pictures that they should be, where there are such, uint8 [N, H, W, 3].
    """

    sheet: np.ndarray
    pictures: np.ndarray
    captions: Sequence[str]
    wanted: np.ndarray | None = None


def keep_preview(directory: Path, step: int, preview: Preview) -> np.ndarray:
    """Write a preview as step_N.png, and the sheet of all so far. Returns the preview's sheet."""
    save_png(directory / name_of(step), preview.sheet)
    place = directory / ROWS / _digest(preview.captions, preview.pictures.shape)
    save_png(place / name_of(step), np.concatenate(list(preview.pictures), axis=1))
    save_png(directory / SHEET, over_time(place, step, preview))
    return preview.sheet


def over_time(place: Path, step: int, preview: Preview) -> np.ndarray:
    """Return the sheet of the steps up to `step` that `place` has: a row a step, a column a prompt.

    A row that cannot be read is left out, and a line on stderr says why.
    """
    found = {int(match[1]): path for path in place.iterdir() if (match := _NAME.match(path.name))}
    rows, names = [], []
    for number in evenly(sorted(n for n in found if n <= step), MOST_ROWS):
        try:
            rows.append(_split(found[number], preview.pictures.shape))
        except (InputError, OSError) as e:
            say(f"cv3jax: {found[number]} is left out of {SHEET} ({e})")
            continue
        names.append(f"step {number:,}" if number else "before")
    if preview.wanted is not None:
        rows.append(preview.wanted)
        names.append("original")
    return contact_sheet([_fitted(row) for row in rows], rows=names, columns=preview.captions)


def evenly(numbers: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of the numbers, evenly spaced, the first and the last among them."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[round(i * (len(numbers) - 1) / (most - 1))] for i in range(most)]


def name_of(step: int) -> str:
    """Return the name of a step's file."""
    return f"step_{step:07d}.png"


def has_row(directory: Path, step: int, captions: Sequence[str], side: int) -> bool:
    """Return whether the previews of these captions, `side` pixels square, have a row of a step."""
    place = directory / ROWS / _digest(captions, (len(captions), side, side, 3))
    return (place / name_of(step)).is_file()


def _digest(captions: Sequence[str], shape: tuple[int, ...]) -> str:
    """Return what distinguishes previews whose pictures do not belong into one column."""
    text = json.dumps([list(captions), *shape])
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def _split(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return the pictures of a row, uint8 [N, H, W, 3]. Raises InputError where they are others."""
    count, height, width, _ = shape
    row = np.asarray(decode_rgb(open_image(read_regular(path, MAX_IMAGE_BYTES))))
    if row.shape != (height, count * width, 3):
        raise InputError(f"it has {row.shape[1]}×{row.shape[0]} pixels")
    return np.stack(np.split(row, count, axis=1))


def _fitted(pictures: np.ndarray) -> np.ndarray:
    """Return pictures reduced to _LARGE pixels, or enlarged to _SMALL and more, a side."""
    height, width = pictures.shape[1:3]
    longer = max(height, width)
    if _SMALL <= longer <= _LARGE:
        return pictures
    if longer < _SMALL:
        return pictures.repeat(-(-_SMALL // longer), 1).repeat(-(-_SMALL // longer), 2)
    size = (round(width * _LARGE / longer), round(height * _LARGE / longer))
    return np.stack(
        [
            np.asarray(Image.fromarray(one).resize(size, Image.Resampling.LANCZOS))
            for one in pictures
        ]
    )
