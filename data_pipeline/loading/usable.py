"""Selecting the records that are large enough to train on, by `sizes.npy` alone."""

from collections.abc import Sequence

import numpy as np

from data_pipeline.io.errors import InputError
from data_pipeline.io.progress import say
from data_pipeline.records.sizes import sizes_of

_said: set[str] = set()  # a run opens its data more than once


def usable(source: Sequence, min_side: int) -> Sequence[int]:
    """Return the indices of records whose shorter side has at least `min_side` pixels, in order.

    All records are returned where `min_side` is 0. A smaller picture would be enlarged, and a model
    would learn to draw enlarged pictures. The first call for a dataset says on stderr how many are
    left out.

    Raises:
        InputError: no record is large enough, or the sizes of the records cannot be read.
    """
    if not min_side:
        return range(len(source))
    shorter = sizes_of(source).min(axis=1)
    large = np.flatnonzero(shorter >= min_side)
    name = getattr(source, "name", "the given records")
    if not len(large):
        raise InputError(
            f"{name}: all of its {len(source):,} pictures have a shorter side of less than min_side"
            f" = {min_side} pixels (the largest has {shorter.max()}); give larger pictures, or a"
            " min_side of 0 to enlarge them"
        )
    if left_out := len(source) - len(large):
        line = (
            f"{name}: {left_out:,} of {len(source):,} pictures are left out, because their shorter"
            f" side has less than min_side = {min_side} pixels"
        )
        if line not in _said:
            say(line)
        if hasattr(source, "name"):
            _said.add(line)
    return large
