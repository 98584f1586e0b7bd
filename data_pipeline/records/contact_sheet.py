"""A picture of many records: thumbnails with their captions."""

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from data_pipeline.images import labels
from data_pipeline.images.decode import decode_rgb, open_image
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import replacing
from data_pipeline.records.records import Record

_LINES = 6
_TILE, _TEXT_HEIGHT, _GAP = 192, _LINES * labels.LINE + 2, 8  # pixels


def contact_sheet(records: Sequence[Record], out: str | Path, *, name: str) -> None:
    """Write a PNG of the images with up to six lines of caption under each.

    The sheet is about twice as wide as high. Each image is fitted into a tile. Under it is its
    caption and, after an arrow, its recaption.

    Raises:
        InputError: an image is damaged (the message has its key and the dataset `name`), or `out`
            cannot be written.
    """
    columns = max(1, math.ceil(math.sqrt(len(records) * 1.6)))
    rows = math.ceil(len(records) / columns)
    cell_width, cell_height = _TILE + _GAP, _TILE + _TEXT_HEIGHT + _GAP
    sheet = Image.new(
        "RGB", (columns * cell_width + _GAP, rows * cell_height + _GAP), (236, 236, 236)
    )
    draw = ImageDraw.Draw(sheet)
    for i, record in enumerate(records):
        try:
            image = decode_rgb(open_image(record["image"]), short_side=_TILE)
        except InputError as e:
            raise InputError(f"record {record['key']!r} of {name}: {e}") from e
        scale = _TILE / max(image.size)
        image = image.resize(
            [max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS
        )
        x = _GAP + (i % columns) * cell_width
        y = _GAP + (i // columns) * cell_height
        sheet.paste(image, (x + (_TILE - image.width) // 2, y + (_TILE - image.height) // 2))
        text = (
            f"{record['caption']} → {record['recaption']}"
            if record["recaption"]
            else record["caption"]
        )
        labels.write(draw, (x, y + _TILE + 2), labels.wrap(text, _TILE, _LINES))
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(out)) as temporary, temporary.open("wb") as file:
            sheet.save(file, "PNG")
    except OSError as e:
        raise InputError(
            f"{out}: the contact sheet cannot be written ({e.strerror or e}); give another path"
        ) from e
