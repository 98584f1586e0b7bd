"""The datasets that a recipe names, with their shares: `A:3,B:1`."""

import math
from pathlib import Path

from data_pipeline.io.errors import InputError


def parse(text: str) -> list[tuple[str, float]]:
    """Return the (path, weight) pairs of "A:3,B:1"; a weight that is left out is 1.

    A text that is the path of one dataset is taken as that, even with colons and commas.

    Raises:
        InputError: a path is empty or occurs twice, or a weight is not positive.
    """
    if text and Path(text).is_dir():
        return [(text, 1.0)]
    parts = []
    for item in text.split(","):
        path, colon, weight = item.strip().rpartition(":")
        try:
            value = float(weight) if colon else 1.0
        except ValueError:  # the colon is part of the path
            path, value = item.strip(), 1.0
        path = path if colon else item.strip()
        if not path or not 0 < value < math.inf:
            raise InputError(
                f"{text!r}: {item!r} is not a dataset; give PATH or PATH:WEIGHT,PATH:WEIGHT with"
                " positive weights"
            )
        parts.append((path, value))
    names = [path for path, _ in parts]
    if twice := [path for path in names if names.count(path) > 1]:
        raise InputError(
            f"{text!r}: {twice[0]} occurs twice; give it once, with the sum of the weights"
        )
    return parts
