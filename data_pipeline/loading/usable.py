"""Selecting the records that are large enough to train on, by `sizes.npy` alone."""

from collections.abc import Sequence

from data_pipeline.io.errors import InputError
from data_pipeline.io.progress import say
from data_pipeline.loading.bucket_sizes import Size
from data_pipeline.loading.selections import Choice, Counted, Selected, count
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
    return Selected(counted(source, min_side), (0,))


def counted(source: Sequence, min_side: int, buckets: tuple[Size, ...] = ()) -> Counted:
    """Return the number of large enough records in each bucket, as `usable` chooses them.

    Raises InputError as `usable` does.
    """
    choice, known = Choice(buckets, min_side), getattr(source, "counted", {})
    if choice not in known:  # sizes.npy of a large dataset takes minutes to read
        known[choice] = count(sizes_of(source), shard_lengths(source), choice)
    found = known[choice]
    large = int(found.counts.sum(dtype=int))
    name = getattr(source, "name", "the given records")
    if not large:
        raise InputError(
            f"{name}: all of its {len(source):,} pictures have a shorter side of less than min_side"
            f" = {min_side} pixels (the largest has {found.largest}); give larger pictures, or a"
            " min_side of 0 to enlarge them"
        )
    if left_out := len(source) - large:
        line = (
            f"{name}: {left_out:,} of {len(source):,} pictures are left out, because their shorter"
            f" side has less than min_side = {min_side} pixels"
        )
        if line not in _said:
            say(line)
        if hasattr(source, "name"):
            _said.add(line)
    return found


def shard_lengths(source: Sequence) -> Sequence[int]:
    """Return the number of records of each shard; records without shards are one."""
    return getattr(source, "lengths", None) or (len(source),)
