"""Aspect-ratio buckets: several sizes of about the same area, so that less is cropped away.

All images of a batch have the size of one bucket.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from data_pipeline.loading.bucket_sizes import Size
from data_pipeline.loading.damaged import Cell
from data_pipeline.loading.order import Weighted
from data_pipeline.loading.selections import Selected
from data_pipeline.loading.usable import counted
from data_pipeline.records.repeats import repeated, repeats_of

Inside = Callable[[Sequence[int]], Sequence[int]]  # numbers of buckets → indices of records


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
    parts: Sequence[Sequence],
    weights: Sequence[float],
    buckets: Sequence[Size],
    least: int,
    min_side: int,
) -> dict[Size, Weighted]:
    """Return {size: the records of each dataset with that size, and their share of the draws}.

    Sizes without records are left out, and so are pictures whose shorter side is below min_side.

    Raises:
        InputError: the sizes of a dataset's records cannot be read, or all are too small.
    """
    divided = [_divided(part, buckets, min_side) for part in parts]
    counts = [[len(inside([n])) for n in range(len(buckets))] for inside in divided]
    taker = np.array(merged(np.sum(counts, axis=0), buckets, least))
    found: dict[Size, Weighted] = {}
    for bucket in sorted(set(taker.tolist())):
        numbers = np.flatnonzero(taker == bucket).tolist()
        chosen = [inside(numbers) for inside in divided]
        shared = [
            (Cell(part, parts[part], own), weight / sum(weights) * len(own) / sum(counts[part]))
            for part, (own, weight) in enumerate(zip(chosen, weights, strict=True))
            if len(own)
        ]
        if shared:
            found[buckets[bucket]] = shared
    return found


def _divided(part: Sequence, buckets: Sequence[Size], min_side: int) -> Inside:
    """Return a function from numbers of buckets to the indices of a dataset's records in these."""
    found = counted(part, min_side, tuple(buckets))
    if repeats_of(part) is None:
        return functools.partial(Selected, found)
    indices = repeated(part, np.asarray(Selected(found, range(len(buckets)))))
    number_of = found.choice(np.asarray(found.sizes))
    return lambda numbers: indices[np.isin(number_of[indices], numbers)]
