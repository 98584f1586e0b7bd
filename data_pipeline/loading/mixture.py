"""Several datasets read as one, each with its share of what is drawn."""

import bisect
import itertools
import math
from collections.abc import Sequence

from data_pipeline.io.errors import InputError
from data_pipeline.loading.shares import parse
from data_pipeline.records.records import Record, RecordSource, open_records


class Mixture(Sequence):
    """`parts` and their `weights`, positive.

    As a sequence it is all of their records, the parts one after the other.

    `name` is what was given, for error messages.

    Raises:
        InputError: no parts, or a weight that is not positive.
    """

    def __init__(self, parts: Sequence[Sequence[Record]], weights: Sequence[float], name: str):
        if not parts or len(parts) != len(weights) or not all(0 < w < math.inf for w in weights):
            raise InputError(
                f"{name}: a positive weight for each dataset, not"
                f" {', '.join(map(str, weights)) or 'none'}"
            )
        self.parts, self.weights, self.name = tuple(parts), tuple(weights), name
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> Record:
        part, within = self.locate(i)
        return self.parts[part][within]

    def locate(self, i: int) -> tuple[int, int]:
        """(part, index in it) of record `i`."""
        i = range(len(self))[i]
        part = bisect.bisect_right(self._ends, i)
        return part, i - (self._ends[part - 1] if part else 0)


def open_datasets(text: str) -> RecordSource | Mixture:
    """The records of what `parse` reads.

    Raises:
        InputError: as `parse` and `open_records` do.
    """
    parts = parse(text)
    if len(parts) == 1:
        return open_records(parts[0][0])
    return Mixture([open_records(path) for path, _ in parts], [weight for _, weight in parts], text)
