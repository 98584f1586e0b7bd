"""The rows in the engine, by lane, with what they hold, and which of them go next."""

from collections.abc import Callable, Iterable

from cv3jax.serving.lanes import READS_TEXT, START, TEXT, Lane, Place
from cv3jax.serving.pool import Slots
from cv3jax.serving.rows import Row
from cv3jax.serving.schedule import Unit, admitted, choose


class Queue:
    """The rows by lane. One thread at a time may use it.

    batch: most rows in a unit. slots: of each place's pool, and the most rows that are under way
    at once. texts: slots for texts; where they run short, the least urgent rows read their text
    again later.
    """

    def __init__(self, lanes: Iterable[Lane], batch: int, slots: int, texts: int):
        """Hold no row."""
        self.rows: dict[str, Row] = {}
        self._by_lane: dict[Lane, dict[Row, None]] = {lane: {} for lane in lanes}
        self._batch, self._most = batch, slots
        self._texts = Slots(texts)
        self._slots = {
            Place(lane.stage, lane.size): Slots(slots) for lane in self._by_lane if lane.size
        }
        self._under_way = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def waiting(self) -> dict[Lane, int]:
        """Return the number of rows by the lane of their next unit."""
        return {lane: len(rows) for lane, rows in self._by_lane.items()}

    @property
    def under_way(self) -> int:
        """How many rows were in a unit already."""
        return self._under_way

    def add(self, row: Row) -> None:
        """Take a new row."""
        self.rows[row.order.id] = row
        self._by_lane[row.lane][row] = None

    def remove(self, row: Row) -> None:
        """Forget a row and free what it holds."""
        del self.rows[row.order.id]
        self._leave(row)
        self.release_slot(row)
        self._release_text(row)
        self._under_way -= row.admitted

    def take(self, seconds: Callable[[Lane], float]) -> Unit | None:
        """Return the next unit, or None; its rows hold the slots that it takes.

        seconds: of a full unit of a lane.
        """
        ready: dict[Lane, Iterable[Row]] = {
            lane: rows for lane, rows in self._by_lane.items() if lane.kind != TEXT and rows
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
            del self._by_lane[unit.lane][row]
            change(row)
            self._by_lane[row.lane][row] = None

    def release_slot(self, row: Row) -> None:
        """Free a row's place in a pool."""
        if row.slot is not None:
            self._slots[row.place].give(row.slot)
            row.slot = None

    def lost(self, places: list[Place], texts: bool) -> None:
        """Send back the rows whose latents, or whose texts, the devices lost."""
        for row in self.rows.values():
            gone = row.slot is not None and row.place in places
            if not gone and not (texts and row.text is not None):
                continue
            self._leave(row)
            if gone:
                self.release_slot(row)
                row.restart()
            if texts:
                self._release_text(row)
            self._by_lane[row.lane][row] = None

    def _leave(self, row: Row) -> None:
        for rows in (self._by_lane[row.lane], self._by_lane[READS_TEXT]):
            rows.pop(row, None)

    def _can_read(self) -> list[Row]:
        """Return the rows that may read their text now."""
        waiting = self._by_lane[READS_TEXT]
        if not waiting:
            return []
        new = self._most - self._under_way
        rows = []
        for row in sorted(waiting, key=lambda row: row.urgency):
            if row.admitted:
                rows.append(row)
            elif new > 0:
                rows.append(row)
                new -= 1
        if self._texts.free >= min(len(rows), self._batch):
            return rows[: self._texts.free]
        holders = [row for row in self.rows.values() if row.text is not None]
        return admitted(rows[: self._batch], self._texts.free, holders)

    def _give_text(self, row: Row) -> None:
        if not self._texts.free:
            holders = (row for row in self.rows.values() if row.text is not None)
            losing = max(holders, key=lambda row: row.urgency)
            del self._by_lane[losing.lane][losing]
            self._release_text(losing)
            self._by_lane[READS_TEXT][losing] = None
        row.text = self._texts.take()
        self._under_way += not row.admitted
        row.admitted = True

    def _release_text(self, row: Row) -> None:
        if row.text is not None:
            self._texts.give(row.text)
            row.text = None
