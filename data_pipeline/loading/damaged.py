"""Skipping records that became unreadable after they were written, up to a limit.

The next readable record of the same dataset (and of the same bucket, where there are buckets) takes
the place of a damaged one, so that batches keep their size. It is prepared with the random numbers
of that place in the order, so neither the other draws nor the data position change.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.io.errors import InputError
from data_pipeline.io.progress import say

# the field of examples and of grain's batches that lists damaged records; the loader removes it
FIELD = "damaged"


class Cell(NamedTuple):
    """Some records of one dataset."""

    part: int  # the number of the dataset in the mixture
    source: Sequence
    indices: Sequence[int]  # in `source`


class Pick(NamedTuple):
    """A place in a cell."""

    cell: Cell
    place: int


class Picks:
    """The places of a cell, as a source that grain reads."""

    def __init__(self, cell: Cell):
        """Make the source of a cell."""
        self.cell = cell

    def __len__(self) -> int:
        """Return the number of places."""
        return len(self.cell.indices)

    def __getitem__(self, place: int) -> Pick:
        """Return the pick of a place."""
        return Pick(self.cell, int(place))

    def __repr__(self) -> str:
        """Return the text by which grain names the source in its own messages."""
        return f"Picks({getattr(self.cell.source, 'name', 'records')}, {len(self)})"


def read(
    pick: Pick, rng: np.random.Generator, *, prepare: Callable, size: tuple[int, int], most: int
) -> dict[str, Any]:
    """Return `prepare`'s example of a pick, or of the next record that can be read.

    Under FIELD, the example lists the records that could not be read, one line "PART:INDEX why"
    each.

    Raises:
        InputError: as `prepare` does, where more than `most` in a row cannot be read.
        OSError: the machine fails; then no record is damaged.
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
        else f"{len(lost)} damaged records in a row; restore the files; the first: {first}"
    )


def readable(source: Sequence) -> Iterator[Any]:
    """Yield the records of `source` in order, without the damaged ones.

    It serves to look at some records, as previews do; it counts no damage.
    """
    for i in range(len(source)):
        try:
            record = source[i]
        except InputError:  # the loader reports it when it reads it
            continue
        yield record


class Tally:
    """The damaged records so far, each once: `lost` is {"PART:INDEX": why}."""

    def __init__(self, most: int):
        """Start without damaged records; more than `most` are an error."""
        self.most, self.lost = most, {}

    def __len__(self) -> int:
        """Return the number of damaged records."""
        return len(self.lost)

    def add(self, lines: Sequence[str]) -> None:
        """Count the damaged records of a batch's FIELD; report each new one on stderr.

        Raises:
            InputError: there are more than `most`.
        """
        for line in (line for joined in lines for line in str(joined).splitlines()):
            name, _, why = line.partition(" ")
            if name not in self.lost:
                self.lost[name] = why
                say(f"a damaged record is replaced by the next one: {why}")
        self._check_count()

    def join(self, lost: Mapping[str, str]) -> None:
        """Count the damaged records of an earlier session, or of another process."""
        self.lost |= {name: why for name, why in lost.items() if name not in self.lost}
        self._check_count()

    def _check_count(self) -> None:
        if len(self.lost) > self.most:
            first = next(iter(self.lost.values()))
            raise InputError(
                f"damaged records: {len(self.lost)}, but max_damaged = {self.most}; restore the"
                f" files, or raise max_damaged; the first: {first}"
            )
