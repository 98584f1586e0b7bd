"""Aspect-ratio buckets: several sizes of about the same area, so that less is cropped away.

All images of a batch have the size of one bucket.
"""

import math
from collections.abc import Sequence

import numpy as np

from data_pipeline.loading.bucket_sizes import Size
from data_pipeline.loading.damaged import Cell
from data_pipeline.loading.order import Weighted
from data_pipeline.records.sizes import sizes_of


def assign(shapes: np.ndarray, buckets: Sequence[Size]) -> np.ndarray:
    """Return the index of the bucket whose log aspect ratio is nearest to that of each image.

    shapes: [N, 2], height and width. Result: int [N].
    """
    ratios = np.log([height / width for height, width in buckets])
    order = np.argsort(ratios)
    edges = (ratios[order][1:] + ratios[order][:-1]) / 2
    return order[np.searchsorted(edges, np.log(shapes[:, 0] / shapes[:, 1]))]


def merged(counts: Sequence[int], buckets: Sequence[Size], least: int) -> list[int]:
    """Return for each bucket the bucket that takes its records.

    That is itself if it has `least` records, else the nearest in aspect ratio that remains: a batch
    of a smaller bucket would contain records twice. The smallest are merged first; the last one
    that remains takes all.
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
    """Return {size: the records of each dataset with that size, and their share of the draws}.

    Sizes without records are left out.

    whole: for each dataset the records that are drawn, and its weight.

    Raises:
        InputError: the sizes of a dataset's records cannot be read.
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
