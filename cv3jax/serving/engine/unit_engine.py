"""The engine: a thread that runs one unit after the other and tells what came of it.

Rows join and leave between units. While a unit runs on the device, the thread tells the listeners
of the one before.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cv3jax.cascade.sizes import Size
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.serving.engine.compiling import Compiled
from cv3jax.serving.engine.estimates import Estimates
from cv3jax.serving.engine.lanes import DECODE, STEP, TEXT, Lane
from cv3jax.serving.engine.offer import Offer, units_of
from cv3jax.serving.engine.pool import Store, pack
from cv3jax.serving.engine.queue import Queue
from cv3jax.serving.engine.rows import Row
from cv3jax.serving.engine.schedule import Unit
from cv3jax.serving.engine.tally import Tally
from cv3jax.serving.orders import Drawn, Ended, Event, Listener, Order, Stepped
from data_pipeline.io.errors import InputError, first_line

LOG = logging.getLogger(__name__)
SLACK = 8.0  # a deadline is the arrival and so many times the seconds that the order takes alone


class UnitEngine:
    """Draws orders, `orders.Engine`. `opening.open_engine` makes one.

    programs: the verified ones by lane and shape. tokenize: prompts → tokens [B, L]. facts: the
    capabilities, beside the seconds of units.
    """

    def __init__(
        self,
        offer: Offer,
        store: Store,
        queue: Queue,
        programs: dict[tuple[Lane, int], Compiled],
        estimates: Estimates,
        tokenize: Callable[[list[str]], np.ndarray],
        facts: dict[str, Any],
    ):
        """Keep what draws; `start` begins."""
        self._offer, self._store, self._queue = offer, store, queue
        self._programs, self._estimates, self._facts = programs, estimates, facts
        self._tokenize, self._tally = tokenize, Tally(offer.lanes)
        self._changed = threading.Condition()  # guards the queue and what follows
        self._tokenizing = threading.Lock()  # a tokenizer refuses two threads at once
        self._last: tuple[str, np.ndarray] | None = None  # the newest prompt and its tokens
        self._told: list[tuple[Listener, Event]] = []  # to tell, in order
        self._cancelled: list[Row] = []
        self._count, self._running = 0, 0
        self._ends: float | None = None  # when to stop, at the latest
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def description(self) -> CascadeDescription:
        """What the cascade says of its parts."""
        return self._offer.description

    @property
    def sizes(self) -> list[tuple[Size, ...]]:
        """The sizes, from the base's picture to the final one, that were compiled."""
        return list(self._offer.chains)

    @property
    def capabilities(self) -> dict[str, Any]:
        """Programs, shapes, compiled memory and measured seconds, for `/v1/capabilities`."""
        lanes = self._facts["lanes"]
        with self._changed:
            seconds = {lane: self._estimates.shapes(lane) for lane in self._offer.lanes}
        shown = {
            str(lane): {**lanes[str(lane)], "seconds": {f"{n}": s for n, s in known.items()}}
            for lane, known in seconds.items()
        }
        return {**self._facts, "lanes": shown}

    @property
    def gauges(self) -> dict[str, float]:
        """What `/metrics` shows, see `Tally.gauges`."""
        with self._changed:
            waiting, under_way = self._queue.waiting(), self._queue.under_way
            shown = self._tally.gauges(waiting, under_way, self._running)
        return {**shown, "alive": float(self._thread.is_alive())}

    def submit(self, order: Order, listener: Listener) -> None:
        """Draw an order; its events go to the listener, the last one is `Ended` or a last `Drawn`.

        Raises InputError on an order that cannot be drawn.
        """
        legs = self._offer.legs(order)
        tokens = self._tokens(order.prompt)
        row = Row(order, listener, tokens, legs, image=order.image)
        units = row.left()
        with self._changed:
            if self._ends is not None:
                raise InputError("the server is stopping and takes no more orders")
            if order.id in self._queue.rows:
                raise InputError(f"order {order.id}: there is one of this id already")
            row.patience = self._estimates.alone(units, self._facts["batch"])
            row.cost = self._estimates.share(units)
            row.number, self._count = self._count, self._count + 1
            alone = self._estimates.alone(units) + self._store.merging(order.loras)
            row.deadline = time.monotonic() + SLACK * alone
            self._queue.add(row)
            self._changed.notify()

    def cancel(self, order_id: str) -> bool:
        """End an order before its next step. Returns whether it was still to be drawn."""
        with self._changed:
            row = self._queue.rows.get(order_id)
            if row is None or row.cancelled:
                return False
            row.cancelled = True
            self._cancelled.append(row)
            self._changed.notify()
            return True

    def seconds(self, orders: list[Order]) -> float:
        """Return the seconds after which these orders would be done if they came now."""
        if not orders:
            return 0.0
        units = [units_of(self._offer.legs(order)) for order in orders]
        with self._changed:
            longest = max(units, key=self._estimates.alone)
            deadline = time.monotonic() + SLACK * self._estimates.alone(longest)
            merging = self._store.merging(*(order.loras for order in orders))
            return self._before(deadline) + merging + self._estimates.alone(longest, len(orders))

    def remaining(self, order_id: str) -> float | None:
        """Return the seconds after which an order will be done, or None for one that is over."""
        with self._changed:
            row = self._queue.rows.get(order_id)
            if row is None:
                return None
            own = self._estimates.alone(row.left()) + self._store.merging(row.order.loras)
            return self._before(row.deadline, row) + own

    def start(self) -> None:
        """Begin to draw, in a thread of its own."""
        self._thread.start()

    def stop(self, drain: float) -> int:
        """End after at most `drain` seconds. Returns the number of orders not drawn.

        Those orders get no further event, so that whoever keeps them can have them drawn later.
        """
        with self._changed:
            self._ends = time.monotonic() + drain
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        return len(self._queue)

    def _tokens(self, prompt: str) -> np.ndarray:
        """Return the tokens of a prompt; the pictures of a request come one after the other."""
        with self._tokenizing:
            if self._last is None or self._last[0] != prompt:
                self._last = prompt, np.asarray(self._tokenize([prompt]), np.int32)[0]
            return self._last[1]

    def _before(self, deadline: float, than: Row | None = None) -> float:
        """Return the seconds of the work that is more urgent than a deadline."""
        return sum(
            self._estimates.share(row.left()) if row.under_way else row.cost
            for row in self._queue
            if row is not than and row.deadline <= deadline
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                while (unit := self._next()) is None and not self._told:
                    if self._ends is not None:
                        return
                    self._changed.wait()
            if unit is None:
                self._tell()
                continue
            try:
                self._store.merge(unit.lane, unit.rows[0].order.loras)  # in no unit's time
                began = time.monotonic()
                shape, made = self._begin(unit)
                self._tell()
                jax.block_until_ready((made, self._store.written(unit.lane)))
                made = _fetched(unit, made)
                seconds = time.monotonic() - began
            except Exception as e:  # devices raise many types, and none may end the thread
                self._fail(unit, e)
                continue
            with self._changed:
                self._estimates.note(unit.lane, shape, seconds)
                self._tally.ran(unit.lane, len(unit.rows), shape, seconds)
                self._finish(unit, made)

    def _next(self) -> Unit | None:
        for row in self._cancelled:
            if row.order.id in self._queue.rows:  # it may be done, or have failed
                self._queue.remove(row)
                self._told.append((row.listener, Ended(cancelled=True)))
                self._tally.cancelled += 1
        self._cancelled.clear()
        if self._ends is not None and time.monotonic() >= self._ends:
            return None
        unit = self._queue.take(self._estimates.unit)
        self._running = 0 if unit is None else len(unit.rows)
        return unit

    def _begin(self, unit: Unit) -> tuple[int, Any]:
        self._store.repair()
        shape = self._estimates.shape(unit.lane, len(unit.rows))
        packed = pack(unit.rows, shape, unit.lane, self._store.count)
        run, loras = self._programs[unit.lane, shape].run, unit.rows[0].order.loras
        return shape, self._store.run(unit.lane, run, packed, loras)

    def _finish(self, unit: Unit, images: dict[Row, np.ndarray]) -> None:
        """File the rows of a unit under their next lanes, and keep what to tell."""
        done = []

        def change(row: Row) -> None:
            if unit.lane.kind == TEXT:
                return
            event = self._advance(row, images.get(row))
            if event is not None and not row.cancelled:
                self._told.append((row.listener, event))
                if isinstance(event, Drawn) and event.last:
                    done.append(row)

        self._queue.moved(unit, change)
        for row in done:
            self._queue.remove(row)
        self._tally.pictures += len(done)

    def _advance(self, row: Row, image: np.ndarray | None) -> Event | None:
        """Count a unit of a row. Returns what there is to tell."""
        leg = row.leg
        row.done += 1
        event: Event | None = None
        if leg.lane.kind == STEP:
            preview = image if row.order.previews else None
            event = Stepped(leg.lane.stage, leg.relay_pass, row.done, leg.units, preview)
        elif leg.lane.kind == DECODE:
            row.image = image
            self._queue.release_slot(row)
            last = row.at == len(row.legs) - 1
            event = Drawn(leg.lane.stage, leg.relay_pass, image, last)
        if row.done == leg.units and row.at < len(row.legs) - 1:
            row.at, row.done = row.at + 1, 0
        return event

    def _fail(self, unit: Unit, error: Exception) -> None:
        """End the rows of a unit that failed, and start those again whose arrays it took along."""
        LOG.error("a unit of %s failed", unit.lane, exc_info=error)
        message = f"the device failed in {unit.lane}: {first_line(error, 200)}"
        with self._changed:
            self._tally.failed += len(unit.rows)
            for row in unit.rows:
                self._queue.remove(row)
                self._told.append((row.listener, Ended(cancelled=False, message=message)))
            self._queue.lost(*self._store.lost())

    def _tell(self) -> None:
        with self._changed:
            told, self._told = self._told, []
        for listener, event in told:
            try:
                listener(event)
            except Exception as e:  # a listener's fault is not the engine's
                LOG.error("a listener failed", exc_info=e)


def _fetched(unit: Unit, made: Any) -> dict[Row, np.ndarray]:
    """Return what a unit made of each row on the host, where anybody wants it."""
    wanted = unit.lane.kind == DECODE or (
        unit.lane.kind == STEP and any(row.order.previews for row in unit.rows)
    )
    if not wanted:
        return {}
    # copies, so that none keeps the pictures of the whole unit
    return {row: one.copy() for row, one in zip(unit.rows, np.asarray(made[0]), strict=False)}
