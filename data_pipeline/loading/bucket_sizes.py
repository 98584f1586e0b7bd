"""The sizes of aspect-ratio buckets, from a recipe's text.

The libraries that read records are not imported.
"""

import math
import re
from collections.abc import Sequence

from data_pipeline.io.errors import InputError

Size = tuple[int, int]  # height, width in pixels
WIDEST = 2.0  # the largest ratio of long to short side that `around` makes
MOST = 64  # the most buckets, because a step is compiled for each


def parse(text: str, image_size: int) -> tuple[Size, ...]:
    """Return the buckets that `text` describes.

    "" gives none, "64" gives `around(image_size, 64)`, and "512x512,448x576" gives these two,
    height first.

    Raises:
        InputError: the text is anything else, a size occurs twice, a side is out of range, or there
            are more than MOST.
    """
    wrong = (
        f"{text!r}: give buckets as HEIGHTxWIDTH,HEIGHTxWIDTH,… in pixels, or as one number that"
        " divides all their sides"
    )
    if not text:
        return ()
    if text.isdecimal():
        if not 8 <= int(text) <= image_size:
            raise InputError(f"{wrong}, in 8..{image_size}")
        found = around(image_size, int(text))
    else:
        matches = [re.fullmatch(r"\s*(\d{1,5})x(\d{1,5})\s*", item) for item in text.split(",")]
        if not all(matches):
            raise InputError(wrong)
        found = tuple((int(m[1]), int(m[2])) for m in matches)
    check_buckets(found)
    return found


def check_buckets(buckets: Sequence[Size]) -> None:
    """Raise InputError on buckets that cannot be used."""
    if any(not 8 <= side <= 8192 for size in buckets for side in size):
        raise InputError(f"buckets = {_words(buckets)}: give sides in 8..8192 pixels")
    if len({height / width for height, width in buckets}) < len(buckets):
        raise InputError(
            f"buckets = {_words(buckets)}: two have the same aspect ratio, so one of them would"
            " never be used; remove one"
        )
    if len(buckets) > MOST:
        raise InputError(
            f"{len(buckets)} buckets are too many, because a step is compiled for each; give at"
            f" most {MOST}"
        )


def around(image_size: int, step: int) -> tuple[Size, ...]:
    """Return sizes whose sides are multiples of `step` and whose area is near image_size².

    As in SDXL, each width up to the ratio WIDEST gets the height whose area comes nearest. The
    widest size is first. If one is square, its side is the multiple that is nearest to image_size.
    """
    area, found = image_size**2, {}
    for width in range(step, math.ceil(image_size * math.sqrt(WIDEST) / step) * step + 1, step):
        height = max(step, round(area / width / step) * step)
        for size in ((height, width), (width, height)):
            if max(size) / min(size) <= WIDEST:
                ratio = size[0] / size[1]
                if ratio not in found or abs(math.prod(size) - area) < abs(
                    math.prod(found[ratio]) - area
                ):
                    found[ratio] = size
    return tuple(found[ratio] for ratio in sorted(found))


def _words(buckets: Sequence[Size]) -> str:
    return ",".join(f"{height}x{width}" for height, width in buckets)
