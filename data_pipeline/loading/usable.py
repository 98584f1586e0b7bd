"""Which records of a dataset are large enough to train on, by `sizes.npy` alone."""

from collections.abc import Sequence

import numpy as np

from data_pipeline.io.errors import InputError
from data_pipeline.io.progress import say
from data_pipeline.records.sizes import sizes_of


def usable(source: Sequence, min_side: int) -> Sequence[int]:
    """Returns the numbers of the records whose shorter side has at least `min_side` pixels, in
    their order; all of them where that is 0.

    A smaller picture would be enlarged, and a model learns to draw what that looks like. How many
    are left out is said once.

    Raises:
        InputError: none is large enough, or the sizes of the records cannot be had.
    """
    if not min_side:
        return range(len(source))
    shorter = sizes_of(source).min(axis=1)
    large = np.flatnonzero(shorter >= min_side)
    name = getattr(source, "name", "the given records")
    if not len(large):
        raise InputError(
            f"{name}: all of its {len(source):,} pictures have a shorter side of less than min_side"
            f" = {min_side} pixels, the largest {shorter.max()}; give larger pictures, or a"
            " min_side of 0 to have them enlarged"
        )
    if left_out := len(source) - len(large):
        say(
            f"{name}: {left_out:,} of {len(source):,} pictures are left out, their shorter side is"
            f" less than min_side = {min_side} pixels"
        )
    return large
