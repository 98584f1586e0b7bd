"""The datasets that a recipe names, with their shares: `A:3,B:1`."""

import math
from pathlib import Path

from data_pipeline.io.errors import InputError


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
