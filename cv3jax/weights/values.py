"""What is wrong with the values of weights, found while they are read for another purpose."""

import dataclasses

import jax
import numpy as np

from cv3jax.checkpoints.streaming import Leaf
from data_pipeline.io.errors import counted

# the largest number of half precision; the weights of released models are below 1,000
MOST = 65504.0
_PIECE = 2**22  # values that are looked at at a time


@dataclasses.dataclass
class Values:
    """What the arrays that were looked at hold; `look` adds one.

    Attributes:
        largest: the largest absolute value of all that are finite.
        where: the name of its array.
        wrong: {what: (how many values, the name of the first array, how many arrays)}.
    """

    largest: float = 0.0
    where: str = ""
    wrong: dict[str, tuple[int, str, int]] = dataclasses.field(default_factory=dict)

    def look(self, name: str, array: np.ndarray) -> None:
        """Add an array of floating-point numbers."""
        flat = array.reshape(-1)
        counts = dict.fromkeys(("not a number", "infinite", f"above {MOST:,.0f}"), 0)
        for start in range(0, flat.size, _PIECE):
            size = np.abs(flat[start : start + _PIECE].astype(np.float32, copy=False))
            most = float(size.max())
            if not most <= MOST:  # NaN included
                missing, endless = np.isnan(size), np.isinf(size)
                size = size[~(missing | endless)]
                most = float(size.max(initial=0.0))
                found = (missing.sum(), endless.sum(), (size > MOST).sum())
                counts = {
                    what: counts[what] + int(each) for what, each in zip(counts, found, strict=True)
                }
            if most > self.largest:
                self.largest, self.where = most, name
        for what, count in counts.items():
            if count:
                values, first, arrays = self.wrong.get(what, (0, name, 0))
                self.wrong[what] = (values + count, first, arrays + 1)

    def words(self) -> list[str]:
        """Return a line for each kind of wrong value, and the largest value."""
        return [
            *(
                f"{counted(values, 'value')} {'is' if values == 1 else 'are'} {what}, the first in"
                f" {first} ({counted(arrays, 'array')} in all)"
                for what, (values, first, arrays) in self.wrong.items()
            ),
            f"the largest absolute value is {self.largest:.4g}, in {self.where or 'no array'}",
        ]


def watched(params: dict, values: Values) -> dict:
    """Return the same tree of leaves, each of which `values` looks at when it is read."""

    def watch(path: tuple, leaf: Leaf) -> Leaf:
        name = "/".join(str(key.key) for key in path)

        def read() -> np.ndarray:
            array = leaf.read()
            values.look(name, array)
            return array

        return Leaf(leaf.shape, leaf.dtype, read)

    return jax.tree.map_with_path(watch, params)
