"""The rows in the engine, by lane, with what they hold, and which of them go next."""

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from cv3jax.serving.engine.adapters import of_stage
from cv3jax.serving.engine.lanes import READS_TEXT, START, STEP, TEXT, Lane, Place
from cv3jax.serving.engine.pool import Slots
from cv3jax.serving.engine.rows import Row
from cv3jax.serving.engine.schedule import Unit, admitted, choose


def _urgency(row: Row) -> tuple[float, int]:
    return row.urgency


def _alike(rows: list[Row], stage: str, stages: Mapping[str, str]) -> list[Row]:
    """Return the rows with the first one's adapters of this stage, whose parameters a unit has."""
    loras = of_stage(rows[0].order.loras, stage, stages)
    return [row for row in rows if of_stage(row.order.loras, stage, stages) == loras]


class Queue:
    """The rows by lane. One thread at a time may use it.

    batch: most rows in a unit. slots: of each place's pool, and the most rows that are under way
    at once. texts: slots for texts; where they run short, the least urgent rows read their text
    again later. stages: the stage that each adapter changes, by its name.
    """

    def __init__(
        self,
        lanes: Iterable[Lane],
        batch: int,
        slots: int,
        texts: int,
        stages: Mapping[str, str] = MappingProxyType({}),
    ):
        """Hold no row."""
        self.rows: dict[str, Row] = {}
        self._by_lane: dict[Lane, list[Row]] = {lane: [] for lane in lanes}  # most urgent first
        self._readers: dict[Row, None] = {}  # the rows that hold a text
        self._batch, self._most, self._stages = batch, slots, stages
        self._texts = Slots(texts)
        self._slots = {
            Place(lane.stage, lane.size): Slots(slots) for lane in self._by_lane if lane.size
        }
        self.under_way = 0  # rows that were in a unit already

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        """Return the rows, in the order in which they came."""
        return iter(self.rows.values())

    def waiting(self) -> dict[Lane, int]:
        """Return the number of rows by the lane of their next unit."""
        return {lane: len(rows) for lane, rows in self._by_lane.items()}

    def add(self, row: Row) -> None:
        """Take a new row."""
        self.rows[row.order.id] = row
        self._file(row)

    def remove(self, row: Row) -> None:
        """Forget a row and free what it holds."""
        del self.rows[row.order.id]
        if not self._leave(row, row.lane):
            self._leave(row, READS_TEXT)  # it has its text, but its unit did not end
        self.release_slot(row)
        self._release_text(row)
        self.under_way -= row.under_way

    def take(self, seconds: Callable[[Lane, int], float]) -> Unit | None:
        """Return the next unit, or None; its rows hold the slots that it takes.

        seconds: of a unit of a lane with so many rows.
        """
        ready = {
            lane: _alike(rows, lane.stage, self._stages) if lane.kind == STEP else rows
            for lane, rows in self._by_lane.items()
            if rows and lane.kind != TEXT
        }
        if reading := self._can_read():
            ready[READS_TEXT] = reading
        unit = choose(ready, self._batch, seconds)
        if unit is None:
            return None
        for row in unit.rows:
            if unit.lane.kind == TEXT:
                self._give_text(row)
            elif unit.lane.kind == START:
                row.slot = self._slots[row.place].take()
        return unit

    def moved(self, unit: Unit, change: Callable[[Row], None]) -> None:
        """Call change(row) for each row of a unit that ran, and file it under its next lane."""
        for row in unit.rows:
            self._leave(row, unit.lane)
            change(row)
            self._file(row)

    def release_slot(self, row: Row) -> None:
        """Free a row's place in a pool."""
        if row.slot is not None:
            self._slots[row.place].give(row.slot)
            row.slot = None

    def lost(self, places: list[Place], texts: bool) -> None:
        """Send back the rows whose latents, or whose texts, the devices lost."""
        for row in self:
            gone = row.slot is not None and row.place in places
            if not gone and not (texts and row.text is not None):
                continue
            self._leave(row, row.lane)
            if gone:
                self.release_slot(row)
                row.restart()
            if texts:
                self._release_text(row)
            self._file(row)

    def _file(self, row: Row) -> None:
        bisect.insort(self._by_lane[row.lane], row, key=_urgency)

    def _leave(self, row: Row, lane: Lane) -> bool:
        """Take a row out of a lane. Returns whether it was there."""
        rows = self._by_lane[lane]
        at = bisect.bisect_left(rows, row.urgency, key=_urgency)
        if at == len(rows) or rows[at] is not row:
            return False
        del rows[at]
        return True

    def _can_read(self) -> list[Row]:
        """Return the most urgent rows that may read their text now."""
        rows, new = [], self._most - self.under_way
        for row in self._by_lane[READS_TEXT]:
            if len(rows) == self._batch:
                break
            if rows and row.order.loras != rows[0].order.loras:
                continue
            if row.under_way or new:
                rows.append(row)
                new -= not row.under_way
        return admitted(rows, self._texts.free, self._readers if rows else ())

    def _give_text(self, row: Row) -> None:
        if not self._texts.free:
            losing = max(self._readers, key=_urgency)
            self._leave(losing, losing.lane)
            self._release_text(losing)
            self._file(losing)
        row.text = self._texts.take()
        self._readers[row] = None
        self.under_way += not row.under_way
        row.under_way = True

    def _release_text(self, row: Row) -> None:
        if row.text is not None:
            self._texts.give(row.text)
            row.text = None
            del self._readers[row]
