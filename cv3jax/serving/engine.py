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
from cv3jax.serving.compiling import Compiled
from cv3jax.serving.estimates import Estimates
from cv3jax.serving.lanes import DECODE, STEP, TEXT, Lane
from cv3jax.serving.orders import Drawn, Ended, Event, Listener, Order, Stepped
from cv3jax.serving.pool import Store, pack
from cv3jax.serving.queue import Queue
from cv3jax.serving.rows import Row, legs_of
from cv3jax.serving.schedule import Unit
from cv3jax.serving.tally import Tally
from data_pipeline.io.errors import InputError, first_line

LOG = logging.getLogger(__name__)
SLACK = 2.0  # a deadline is the arrival and so many times the seconds that the order takes alone


class UnitEngine:
    """Draws orders, `orders.Engine`. `opening.open_engine` makes one.

    programs: the verified ones by lane and shape. tokenize: prompts → tokens [B, L].
    """

    def __init__(
        self,
        description: CascadeDescription,
        store: Store,
        programs: dict[tuple[Lane, int], Compiled],
        estimates: Estimates,
        queue: Queue,
        tokenize: Callable[[list[str]], np.ndarray],
        facts: dict[str, Any],
    ):
        """Keep what draws; `start` begins. facts: the capabilities, with "sizes"."""
        self._description, self._store, self._programs = description, store, programs
        self._estimates, self._queue, self._tokenize = estimates, queue, tokenize
        self._facts, self._slots = facts, facts["slots"]
        self._lanes = {lane for lane, _ in programs}
        self._tally = Tally(sorted(self._lanes, key=str))
        self._changed = threading.Condition()  # guards the queue and what follows
        self._tokenizing = threading.Lock()  # a tokenizer refuses two threads at once
        self._told: list[tuple[Listener, Event]] = []  # to tell, in order
        self._count, self._running = 0, 0
        self._ends: float | None = None  # when to stop, at the latest
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def sizes(self) -> list[tuple[Size, ...]]:
        """The sizes, from the base's picture to the final one, that were compiled."""
        return list(self._facts["chains"])

    @property
    def capabilities(self) -> dict[str, Any]:
        """Programs, shapes, compiled memory and measured seconds, for `/v1/capabilities`."""
        programs = [
            {
                "lane": str(one.lane),
                "rows": one.shape,
                "seconds": self._estimates.shapes(one.lane)[one.shape],
                "temporary_bytes": one.temporary,
            }
            for one in self._programs.values()
        ]
        return {**self._facts["shown"], "programs": programs}

    @property
    def gauges(self) -> dict[str, float]:
        """What `/metrics` shows, see `Tally.gauges`."""
        with self._changed:
            return self._tally.gauges(self._queue.waiting(), self._queue.under_way, self._running)

    def submit(self, order: Order, listener: Listener) -> None:
        """Draw an order; its events go to the listener, the last one is `Ended` or a last `Drawn`.

        Raises InputError on an order that cannot be drawn.
        """
        legs = self._legs(order)
        with self._tokenizing:
            tokens = np.asarray(self._tokenize([order.prompt]), np.int32)[0]
        row = Row(order, listener, tokens, legs, 0, 0.0, 0.0, order.image)
        units = row.left()
        row.patience = self._estimates.alone(units, self._facts["batch"])
        with self._changed:
            if self._ends is not None:
                raise InputError("the server is stopping; send the order to another one")
            if order.id in self._queue.rows:
                raise InputError(f"order {order.id}: there is one of this id already")
            row.number, self._count = self._count, self._count + 1
            row.deadline = time.monotonic() + SLACK * self._estimates.alone(units)
            self._queue.add(row)
            self._changed.notify()

    def cancel(self, order_id: str) -> bool:
        """End an order before its next step. Returns whether it was still to be drawn."""
        with self._changed:
            row = self._queue.rows.get(order_id)
            if row is None or row.cancelled:
                return False
            row.cancelled = True
            self._changed.notify()
            return True

    def seconds(self, orders: list[Order]) -> float:
        """Return the seconds after which these orders would be done if they came now."""
        ways = [self._legs(order) for order in orders]
        if not ways:
            return 0.0
        longest = max(
            ([(leg.lane, leg.units) for leg in legs] for legs in ways), key=self._estimates.alone
        )
        with self._changed:
            deadline = time.monotonic() + SLACK * self._estimates.alone(longest)
            return self._before(deadline) + self._estimates.alone(longest, len(orders))

    def remaining(self, order_id: str) -> float | None:
        """Return the seconds after which an order will be done, or None for one that is over."""
        with self._changed:
            row = self._queue.rows.get(order_id)
            if row is None:
                return None
            return self._before(row.deadline, row) + self._estimates.alone(row.left())

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

    def _legs(self, order: Order) -> list:
        """Return the legs of an order. Raises InputError where the engine cannot draw it."""
        if order.image is not None and order.image.shape != (*order.sizes[0], 3):
            raise InputError(
                f"a picture of {Size(*order.image.shape[:2])} for an order of sizes"
                f" {', '.join(map(str, order.sizes))}; give one of {order.sizes[0]}"
            )
        if order.image is not None and len(order.sizes) < 2:
            raise InputError("a picture to enlarge needs at least one larger size")
        absent = [name for name in ("base", "relay") if name not in self._description.stages]
        needed = {"base"} if order.image is None else set()
        needed |= {"relay"} if len(order.sizes) > 1 else set()
        if missing := sorted(needed & set(absent)):
            raise InputError(f"this cascade has no {' and no '.join(missing)} stage")
        legs = legs_of(order, self._description)
        if any(leg.lane not in self._lanes for leg in legs):
            offered = "; ".join(" → ".join(map(str, chain)) for chain in self.sizes)
            raise InputError(
                f"sizes {' → '.join(map(str, order.sizes))}: this server draws {offered}"
            )
        return legs

    def _before(self, deadline: float, than: Row | None = None) -> float:
        """Return the seconds of the work that is more urgent than a deadline."""
        return sum(
            self._estimates.share(row.left())
            for row in self._queue.rows.values()
            if row is not than and row.deadline <= deadline
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._drop_cancelled()
                unit = self._next()
                while unit is None and not self._told:
                    if self._ends is not None:
                        return
                    self._changed.wait()
                    self._drop_cancelled()
                    unit = self._next()
            if unit is None:
                self._tell()
                continue
            began, made = time.monotonic(), None
            try:
                shape, made = self._begin(unit)
                self._tell()
                jax.block_until_ready((made, self._store.written(unit.lane)))
                made = self._fetched(unit, made)
            except Exception as e:  # a device's errors have many types, and none may end the thread
                self._fail(unit, e)
                continue
            with self._changed:
                self._finish(unit, shape, made, time.monotonic() - began)

    def _next(self) -> Unit | None:
        if self._ends is not None and time.monotonic() > self._ends:
            return None
        unit = self._queue.take(self._estimates.full)
        self._running = 0 if unit is None else len(unit.rows)
        return unit

    def _drop_cancelled(self) -> None:
        for row in [row for row in self._queue.rows.values() if row.cancelled]:
            self._queue.remove(row)
            self._told.append((row.listener, Ended(cancelled=True)))

    def _begin(self, unit: Unit) -> tuple[int, Any]:
        shape = self._estimates.shape(unit.lane, len(unit.rows))
        program = self._programs[unit.lane, shape]
        packed = pack(unit.rows, shape, unit.lane, self._slots)
        self._store.repair()
        return shape, self._store.run(unit.lane, program.run, packed)

    def _fetched(self, unit: Unit, made: Any) -> Any:
        """Return what a unit made on the host, where anybody wants it."""
        wanted = unit.lane.kind == DECODE or (
            unit.lane.kind == STEP and any(row.order.previews for row in unit.rows)
        )
        return np.asarray(made) if wanted else None

    def _finish(self, unit: Unit, shape: int, made: Any, seconds: float) -> None:
        """File the rows of a unit under their next lanes, and keep what to tell."""
        self._estimates.note(unit.lane, shape, seconds)
        self._tally.ran(unit.lane, len(unit.rows), shape, seconds)
        over = []
        images = {} if made is None else dict(zip(unit.rows, made, strict=False))

        def change(row: Row) -> None:
            if unit.lane.kind == TEXT:
                return
            event = self._advance(row, images.get(row))
            if event is not None and not row.cancelled:
                self._told.append((row.listener, event))
            if isinstance(event, Drawn) and event.last:
                over.append(row)

        self._queue.moved(unit, change)
        for row in over:
            self._queue.remove(row)
        self._tally.pictures += len(over)

    def _advance(self, row: Row, image: np.ndarray | None) -> Event | None:
        """Count a unit of a row. Returns what there is to tell."""
        leg = row.leg
        row.done += 1
        event: Event | None = None
        if leg.lane.kind == STEP:
            preview = image if row.order.previews else None
            event = Stepped(leg.lane.stage, leg.relay_pass, row.done, leg.units, preview)
        elif leg.lane.kind == DECODE:
            last = row.at == len(row.legs) - 1
            row.image = image.copy()  # the others' pictures need not stay with it
            event = Drawn(leg.lane.stage, leg.relay_pass, row.image, last)
            self._queue.release_slot(row)
        if row.done == leg.units and row.at < len(row.legs) - 1:
            row.at, row.done = row.at + 1, 0
        return event

    def _fail(self, unit: Unit, error: Exception) -> None:
        """End the rows of a unit that failed, and start those again whose arrays it took along."""
        LOG.error("a unit of %s failed: %s", unit.lane, first_line(error, 500), exc_info=error)
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
                LOG.error("a listener failed: %s", first_line(e, 500), exc_info=e)
