"""Aspect-ratio buckets: a few sizes of about the same area, of which each batch has one, so that
less is cropped away.
"""

import math
import re
from collections.abc import Sequence

import numpy as np

from data_pipeline.io.errors import InputError
from data_pipeline.loading.damaged import Cell
from data_pipeline.loading.order import Weighted
from data_pipeline.records.sizes import sizes_of

Size = tuple[int, int]  # height, width in pixels
WIDEST = 2.0  # long side over short, of the buckets that `around` makes
MOST = 64  # each is a compiled step


def parse(text: str, image_size: int) -> tuple[Size, ...]:
    """ "" → none; "64" → `around(image_size, 64)`; "512x512,448x576" → those, height first.

    Raises:
        InputError: anything else, a size twice, sides out of range, or more than MOST.
    """
    wrong = (
        f"{text!r}: buckets are HEIGHTxWIDTH,HEIGHTxWIDTH,… in pixels, or a number of which their"
        " sides are multiples"
    )
    if not text:
        return ()
    if text.isdecimal():
        if not 8 <= int(text) <= image_size:
            raise InputError(f"{wrong}, 8..{image_size}")
        found = around(image_size, int(text))
    else:
        matches = [re.fullmatch(r"\s*(\d{1,5})x(\d{1,5})\s*", item) for item in text.split(",")]
        if not all(matches):
            raise InputError(wrong)
        found = tuple((int(m[1]), int(m[2])) for m in matches)
    check_buckets(found)
    return found


def check_buckets(buckets: Sequence[Size]) -> None:
    """Raise InputError on buckets that cannot be."""
    if any(not 8 <= side <= 8192 for size in buckets for side in size):
        raise InputError(f"buckets = {_words(buckets)}: sides are 8..8192 pixels")
    if len({height / width for height, width in buckets}) < len(buckets):
        raise InputError(
            f"buckets = {_words(buckets)}: two have the same aspect ratio, and only one of them"
            " could ever be taken"
        )
    if len(buckets) > MOST:
        raise InputError(
            f"buckets: {len(buckets)} are too many, each is a compiled step; at most {MOST}"
        )


def around(image_size: int, step: int) -> tuple[Size, ...]:
    """Sides that are multiples of `step`, as SDXL's: for each width the height whose area comes
    nearest to image_size², up to WIDEST.

    Widest first. A square among them is of the multiple nearest to image_size.
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


def assign(shapes: np.ndarray, buckets: Sequence[Size]) -> np.ndarray:
    """The bucket whose aspect ratio, as a logarithm, is nearest to each image's. shapes [N, 2],
    height and width → int [N].
    """
    ratios = np.log([height / width for height, width in buckets])
    order = np.argsort(ratios)
    edges = (ratios[order][1:] + ratios[order][:-1]) / 2
    return order[np.searchsorted(edges, np.log(shapes[:, 0] / shapes[:, 1]))]


def merged(counts: Sequence[int], buckets: Sequence[Size], least: int) -> list[int]:
    """For each bucket the one that takes its records: itself where there are `least`, else the
    nearest in aspect ratio that is left.

    A batch of a smaller one would have records twice. The smallest are merged first; the last one
    left takes whatever there is.
    """
    ratios, counts, taker = (
        [math.log(height / width) for height, width in buckets],
        list(counts),
        list(range(len(buckets))),
    )
    left = [bucket for bucket in range(len(buckets)) if counts[bucket]]
    while (
        len(left) > 1 and counts[smallest := min(left, key=lambda bucket: counts[bucket])] < least
    ):
        left.remove(smallest)
        nearest = min(left, key=lambda bucket: abs(ratios[bucket] - ratios[smallest]))
        counts[nearest] += counts[smallest]
        taker = [nearest if bucket == smallest else bucket for bucket in taker]
    return taker


def cells(
    whole: Sequence[tuple[Cell, float]], buckets: Sequence[Size], least: int
) -> dict[Size, Weighted]:
    """Size → what of each dataset is in it, with its share of everything that is drawn; sizes that
    nothing is in are left out.

    `whole`: of each dataset the records that are drawn, and its weight.

    Raises:
        InputError: the sizes of a dataset's records cannot be had.
    """
    weights = [weight for _, weight in whole]
    of = [assign(sizes_of(cell.source)[np.asarray(cell.indices)], buckets) for cell, _ in whole]
    counts = [np.bincount(numbers, minlength=len(buckets)) for numbers in of]
    taker = np.array(merged(np.sum(counts, axis=0), buckets, least))
    of, total = [taker[numbers] for numbers in of], sum(weights)
    found: dict[Size, Weighted] = {}
    for bucket in sorted(set(taker)):
        inside = [
            (cell._replace(indices=np.asarray(cell.indices)[of[part] == bucket]), cell, weight)
            for part, (cell, weight) in enumerate(whole)
        ]
        shared = [
            (within, weight / total * len(within.indices) / len(cell.indices))
            for within, cell, weight in inside
            if len(within.indices)
        ]
        if shared:
            found[buckets[bucket]] = shared
    return found


def _words(buckets: Sequence[Size]) -> str:
    return ",".join(f"{height}x{width}" for height, width in buckets)
