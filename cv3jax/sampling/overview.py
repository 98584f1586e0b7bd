"""The contact sheet of a directory of pictures from several calls."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cv3jax.reports.pictures import contact_sheet
from data_pipeline.images.decode import decode_rgb, open_image
from data_pipeline.io.errors import InputError

SHEET = (24, 8)  # at most so many prompts, and pictures of each
_NAME = re.compile(r"(\d{2,4}_.+)_(\d{1,10})\.png")  # the names that few.py gives


def overview(out: Path, prompts: Mapping[str, str], made: Sequence[str]) -> np.ndarray:
    """Return a sheet of the pictures in `out`, uint8 [H, W, 3]: a row per prompt, sorted by seed.

    prompts: {the beginning of the names of its pictures: prompt} of this call. Rows of earlier
    calls come below, labelled by their names; their pictures of the same prompts are in the same
    row. made: the names of this call's pictures, which come first where there are too many.
    """
    rows: dict[str, list[tuple[bool, int, str]]] = {name: [] for name in prompts}
    own = set(made)
    for file in sorted(path.name for path in out.iterdir()):
        if match := _NAME.fullmatch(file):
            rows.setdefault(match[1], []).append((file not in own, int(match[2]), file))
    size = Image.open(out / made[0]).size
    labels, sheet = [], []
    for name in [name for name in rows if rows[name]][: SHEET[0]]:
        chosen = sorted(rows[name])[: SHEET[1]]
        files = [file for _, _, file in sorted(chosen, key=lambda one: one[1])]
        pictures = [image for file in files if (image := _read(out / file, size)) is not None]
        if pictures:
            labels.append(prompts.get(name, name.partition("_")[2].replace("_", " ")))
            sheet.append(np.stack(pictures))
    return contact_sheet(sheet, rows=labels)


def _read(path: Path, size: tuple[int, int]) -> np.ndarray | None:
    """Return uint8 [H, W, 3] of size (W, H), or None where the file is not a picture."""
    try:
        image = decode_rgb(open_image(path.read_bytes()))
    except (InputError, OSError):
        return None
    return np.asarray(image if image.size == size else image.resize(size))
