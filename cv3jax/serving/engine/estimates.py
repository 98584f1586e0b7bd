"""How long units take, measured, and how long orders therefore will."""

from collections.abc import Iterable

from cv3jax.serving.engine.lanes import Lane

WEIGHT = 0.1  # of the newest measurement in a running mean


class Estimates:
    """The seconds of a unit, by lane and by the number of rows that it was compiled for."""

    def __init__(self):
        """Know nothing yet."""
        self._seconds: dict[Lane, dict[int, float]] = {}

    def measured(self, lane: Lane, shape: int, seconds: float) -> None:
        """Take the first measurement, with which the shape may be used."""
        known = self._seconds.setdefault(lane, {})
        known[shape] = seconds
        self._seconds[lane] = dict(sorted(known.items()))

    def note(self, lane: Lane, shape: int, seconds: float) -> None:
        """Take a further measurement into the running mean."""
        known = self._seconds[lane]
        known[shape] += WEIGHT * (seconds - known[shape])

    def shape(self, lane: Lane, count: int) -> int:
        """Return the smallest shape that holds `count` rows."""
        return next(shape for shape in self._seconds[lane] if shape >= count)

    def shapes(self, lane: Lane) -> dict[int, float]:
        """Return the seconds of a unit by its shape, smallest first."""
        return dict(self._seconds[lane])

    def unit(self, lane: Lane, rows: int) -> float:
        """Return the seconds of a unit with so many rows, which are padded to a shape."""
        return self._seconds[lane][self.shape(lane, rows)]

    def alone(self, units: Iterable[tuple[Lane, int]], rows: int = 1) -> float:
        """Return the seconds of units (lane, how many) that `rows` rows take at once."""
        total = 0.0
        for lane, count in units:
            known = self._seconds[lane]
            most = next(reversed(known))
            whole, rest = divmod(rows, most)
            each = whole * known[most] + (known[self.shape(lane, rest)] if rest else 0.0)
            total += count * each
        return total

    def share(self, units: Iterable[tuple[Lane, int]]) -> float:
        """Return the seconds of device time that a row's units cost in full batches."""
        total = 0.0
        for lane, count in units:
            most, seconds = next(reversed(self._seconds[lane].items()))
            total += count * seconds / most
        return total
