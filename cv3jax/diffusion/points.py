"""The times t that the released samplers visit, as integers; JAX is not imported."""

import itertools
from collections.abc import Sequence

T = 1000  # t = 0 is clean data, t = T the noisiest


def released_points(steps: int, start: int) -> list[int]:
    """Return the t of the released grids, the last one 0.

    The indices are floor((T - 1)(T_r/T)(k/steps)) for k = steps..1, where T_r = `start`. Raises
    ValueError on a start outside 1..T, or less than one step.
    """
    if not 1 <= start <= T:
        raise ValueError(f"start must be in 1..{T}, not {start}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    # integer arithmetic, because a floor of floats depends on rounding
    return [*((T - 1) * start * k // (T * steps) + 1 for k in range(steps, 0, -1)), 0]


def check_points(t: Sequence[int]) -> None:
    """Raise ValueError unless t decreases strictly, from at most T to 0."""
    falling = all(before > after for before, after in itertools.pairwise(t))
    if len(t) < 2 or t[-1] != 0 or t[0] > T or not falling:
        raise ValueError(f"a grid's t must decrease strictly from at most {T} to 0, not {list(t)}")
