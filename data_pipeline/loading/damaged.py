"""Records that became unreadable after they were written: passed over, so that batches keep their
size, and counted up to a bound.

The one that stands in is the next readable record of the same dataset (of the same bucket, where
there are buckets), prepared with the randomness of the place in the order: what else is drawn stays
as it was, and so does the data position.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.io.errors import InputError
from data_pipeline.io.progress import say

# of an example and of a batch of grain's: what was passed over; never seen outside of the loader
FIELD = "damaged"


class Cell(NamedTuple):
    """Some records of one dataset."""

    part: int  # number of the dataset in the mixture
    source: Sequence
    indices: Sequence[int]  # in `source`


class Pick(NamedTuple):
    """A place in a cell."""

    cell: Cell
    place: int


class Picks:
    """A cell's places, as a source that grain reads."""

    def __init__(self, cell: Cell):
        self.cell = cell

    def __len__(self) -> int:
        return len(self.cell.indices)

    def __getitem__(self, place: int) -> Pick:
        return Pick(self.cell, int(place))

    def __repr__(self) -> str:  # grain names the source in its own messages
        return f"Picks({getattr(self.cell.source, 'name', 'records')}, {len(self)})"


def read(
    pick: Pick, rng: np.random.Generator, *, prepare: Callable, size: tuple[int, int], most: int
) -> dict[str, Any]:
    """`prepare`'s example of a pick, or of the next one that can be read, and under FIELD what
    could not: a line "PART:INDEX why" each.

    Raises:
        InputError: as `prepare` does, when more than `most` in a row cannot be read.
        OSError: the machine fails, which is no record's damage.
    """
    (part, source, indices), start = pick.cell, rng.bit_generator.state
    lost: list[str] = []
    for step in range(len(indices)):
        index = int(indices[(pick.place + step) % len(indices)])
        if step:
            rng.bit_generator.state = start
        try:
            example = prepare(source, index, rng, size)
        except InputError as e:
            lost.append(f"{part}:{index} {e}")
            if len(lost) > most:
                break
        else:
            return {**example, FIELD: "\n".join(lost)}
    first = lost[0].partition(" ")[2]
    raise InputError(
        first
        if len(lost) == 1
        else f"{len(lost)} damaged records one after the other; the first: {first}"
    )


def readable(source: Sequence) -> Iterator[Any]:
    """The records of `source` in order, without the damaged ones: for looking at some, such as in
    previews. None is counted here.
    """
    for i in range(len(source)):
        try:
            record = source[i]
        except InputError:  # the loader names it when it comes to it
            continue
        yield record


class Tally:
    """The damaged records that came so far, each once: `lost` is "PART:INDEX" → why."""

    def __init__(self, most: int):
        self.most, self.lost = most, {}

    def __len__(self) -> int:
        return len(self.lost)

    def add(self, lines: Sequence[str]) -> None:
        """Count those of a batch's FIELD, and say of each new one that it was passed over.

        Raises:
            InputError: they are more than `most`.
        """
        for line in (line for joined in lines for line in str(joined).splitlines()):
            name, _, why = line.partition(" ")
            if name not in self.lost:
                self.lost[name] = why
                say(f"passed over, the next record stands in: {why}")
        self._check_count()

    def join(self, lost: Mapping[str, str]) -> None:
        """Count these too: those of an earlier sitting, or of another process."""
        self.lost |= {name: why for name, why in lost.items() if name not in self.lost}
        self._check_count()

    def _check_count(self) -> None:
        if len(self.lost) > self.most:
            first = next(iter(self.lost.values()))
            raise InputError(
                f"{len(self.lost)} damaged records, at most {self.most} are passed over"
                f" (max_damaged); the first: {first}"
            )
