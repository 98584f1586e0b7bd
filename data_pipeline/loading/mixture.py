"""Several datasets that are read as one, each with its share of what is drawn."""

import bisect
import itertools
import math
from collections.abc import Sequence

from data_pipeline.io.errors import InputError
from data_pipeline.loading.shares import parse
from data_pipeline.records.records import Record, RecordSource
from data_pipeline.records.remote import NO_CACHE, CacheSettings, open_any


class Mixture(Sequence):
    """Datasets (`parts`) and their positive `weights`.

    As a sequence, it has the records of all parts, one part after the other. `name` is the text
    that was given, for error messages.

    Raises:
        InputError: there are no parts, or a weight is not positive.
    """

    def __init__(self, parts: Sequence[Sequence[Record]], weights: Sequence[float], name: str):
        """Check the weights and store the parts."""
        if not parts or len(parts) != len(weights) or not all(0 < w < math.inf for w in weights):
            raise InputError(
                f"{name}: give a positive weight for each dataset, not"
                f" {', '.join(map(str, weights)) or 'none'}"
            )
        self.parts, self.weights, self.name = tuple(parts), tuple(weights), name
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        """Return the number of records of all parts."""
        return self._ends[-1]

    def __getitem__(self, i: int) -> Record:
        """Return record `i`, counted through all parts."""
        part, within = self.locate(i)
        return self.parts[part][within]

    def locate(self, i: int) -> tuple[int, int]:
        """Return (part, index in it) of record `i`."""
        i = range(len(self))[i]
        part = bisect.bisect_right(self._ends, i)
        return part, i - (self._ends[part - 1] if part else 0)


def open_datasets(text: str, cache: CacheSettings = NO_CACHE) -> RecordSource | Mixture:
    """Return the records of the datasets that `parse` reads from `text`.

    cache: where the shards of those in buckets are kept.

    Raises:
        InputError: as `parse` and `open_any` do.
    """
    parts = parse(text)
    if len(parts) == 1:
        return open_any(parts[0][0], cache)
    opened = [open_any(path, cache) for path, _ in parts]
    return Mixture(opened, [weight for _, weight in parts], text)
