"""Several datasets read as one, each with its share of what is drawn."""

import bisect
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.io.errors import InputError
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


def parse(text: str) -> list[tuple[str, float]]:
    """ "A:3,B:1" → [("A", 3.0), ("B", 1.0)]; without a weight 1.

    One dataset is its path, colons and commas included.

    Raises:
        InputError: an empty path, the same twice, or a weight that is not positive.
    """
    if text and Path(text).is_dir():
        return [(text, 1.0)]
    parts = []
    for item in text.split(","):
        path, colon, weight = item.strip().rpartition(":")
        try:
            value = float(weight) if colon else 1.0
        except ValueError:  # a colon of the path's own
            path, value = item.strip(), 1.0
        path = path if colon else item.strip()
        if not path or not 0 < value < math.inf:
            raise InputError(
                f"{text!r}: datasets are PATH or PATH:WEIGHT,PATH:WEIGHT, each weight a positive"
                f" number; {item!r} is not one"
            )
        parts.append((path, value))
    names = [path for path, _ in parts]
    if twice := [path for path in names if names.count(path) > 1]:
        raise InputError(
            f"{text!r}: {twice[0]} is there twice; give it once, with the sum of the weights"
        )
    return parts


def open_datasets(text: str) -> RecordSource | Mixture:
    """The records of what `parse` reads.

    Raises:
        InputError: as `parse` and `open_records` do.
    """
    parts = parse(text)
    if len(parts) == 1:
        return open_records(parts[0][0])
    return Mixture([open_records(path) for path, _ in parts], [weight for _, weight in parts], text)
