"""Choose what the device does next: the rows of one lane that share a unit.

The row with the earliest deadline decides the lane, and the lane's most urgent rows go with it. A
deadline is the arrival plus a multiple of the seconds that the order takes alone, so short orders
come before long ones of the same time, and every order is the most urgent one at last. A unit of
less than half a batch may let full units of other lanes go first, until the patience of one of its
rows is used up. This keeps batches full where there is much to do, and costs nothing where there is
little.

Where there is little, a unit of more than half a batch is also cut to half where both parts one
after the other take no longer than the padded whole. The first rows are then done sooner.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from cv3jax.serving.engine.lanes import Lane


class Waiting(Protocol):
    """What the chooser reads of a row."""

    patience: float  # seconds for which units of other lanes may still go before its own

    @property
    def urgency(self) -> tuple[float, int]:
        """What rows are sorted by; the smallest comes first."""


W = TypeVar("W", bound=Waiting)


class Unit(NamedTuple):
    """What the device does at once: these rows, of this lane."""

    lane: Lane
    rows: list


def choose(
    ready: Mapping[Lane, Sequence[Waiting]], most: int, seconds: Callable[[Lane, int], float]
) -> Unit | None:
    """Return the next unit, or None where no row is ready.

    ready: the rows that can be in a unit now, by their lane, most urgent first. most: of rows in a
    unit. seconds: what a unit of a lane with so many rows takes. A full unit's are taken off the
    patience of the rows that let it go first.
    """
    units = sorted(
        (Unit(lane, list(rows[:most])) for lane, rows in ready.items() if rows),
        key=lambda unit: unit.rows[0].urgency,
    )
    if not units:
        return None
    first = units[0]
    if 2 * len(first.rows) < most and all(row.patience > 0 for row in first.rows):
        full = next((unit for unit in units[1:] if len(unit.rows) == most), None)
        if full is not None:
            for row in first.rows:
                row.patience -= seconds(full.lane, most)
            return full
    lane, rows = first
    half, rest = most // 2, len(rows) - most // 2
    if half and rest > 0 and sum(map(len, ready.values())) < 2 * most:
        halves = seconds(lane, half) + seconds(lane, rest)
        if halves <= seconds(lane, len(rows)):
            return Unit(lane, rows[:half])
    return first


def admitted(rows: Sequence[W], free: int, holders: Iterable[W]) -> list[W]:
    """Return the rows, of some that are sorted by urgency, that can have a slot each.

    free: slots that nobody holds. holders: of the others; a row takes the slot of the least urgent
    one if that is less urgent than itself.
    """
    taken = list(rows[:free])
    losing = sorted(holders, key=lambda row: row.urgency)
    for row in rows[free:]:
        if not losing or losing.pop().urgency < row.urgency:
            break
        taken.append(row)
    return taken
