"""An engine that draws coloured squares in steps, without a model: honest to `orders.Engine`.

A prompt may ask for trouble: "fail" ends after a step with a message, "refuse" is refused at once,
and "slow" waits before each step for a release of `permits`, or until `hurry` is set.
"""

import hashlib
import threading
import time
from typing import Any

import numpy as np

from cv3jax.cascade.sizes import Size
from cv3jax.serving.orders import Drawn, Ended, Event, Listener, Order, Stepped
from data_pipeline.io.errors import InputError

CHAINS = [(Size(64, 64), Size(128, 128)), (Size(64, 96), Size(128, 192)), (Size(64, 64),)]


def colour(order: Order, relay_pass: int, done: int) -> np.ndarray:
    """Return the colour of an order's picture, uint8 [3], which depends on all that it asks."""
    asked = f"{order.prompt}|{order.seed}|{order.base}|{order.relay}|{relay_pass}|{done}"
    return np.frombuffer(hashlib.sha256(asked.encode()).digest()[:3], np.uint8)


def picture(order: Order, relay_pass: int) -> np.ndarray:
    """Return what a stage draws of an order, uint8 [H, W, 3]."""
    size = order.sizes[relay_pass]
    if order.image is not None:
        factor = size.height // order.sizes[0].height
        return order.image.repeat(factor, 0).repeat(factor, 1)
    image = np.full((*size, 3), 255, np.uint8)
    quarter = [side // 4 for side in size]
    image[quarter[0] : -quarter[0], quarter[1] : -quarter[1]] = colour(order, relay_pass, 0)
    return image


class SquareEngine:
    """Draws one step of each order in turn. `pause` is the seconds of a step."""

    def __init__(self, pause: float = 0.0, chains: list[tuple[Size, ...]] | None = None):
        self.pause, self._chains = pause, chains or CHAINS
        self.drawn: list[str] = []  # ids of orders, once for each time that one was drawn
        self.submitted: list[Order] = []
        self.estimate: float | None = None  # what `seconds` says, where it is set
        self.alive = 1.0
        self.hurry, self.permits = threading.Event(), threading.Semaphore(0)
        self._changed = threading.Condition()
        self._open: dict[str, tuple[Order, Listener, list[Event]]] = {}
        self._cancelled: set[str] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def sizes(self) -> list[tuple[Size, ...]]:
        return list(self._chains)

    @property
    def capabilities(self) -> dict[str, Any]:
        return {"kind": "squares", "step_seconds": self.pause}

    @property
    def gauges(self) -> dict[str, float]:
        return {
            "rows": len(self._open),
            'rows_waiting{lane="base 64"}': 0.0,
            "steps_total": 1.0,
            "alive": self.alive,
        }

    def submit(self, order: Order, listener: Listener) -> None:
        if "refuse" in order.prompt:
            raise InputError("the engine refuses this order; ask for another")
        with self._changed:
            if self._stopping:
                raise InputError("the server is stopping")
            assert order.id not in self._open
            self.submitted.append(order)
            self._open[order.id] = (order, listener, list(self._events(order)))
            self._changed.notify()

    def cancel(self, order_id: str) -> bool:
        with self._changed:
            if order_id not in self._open or order_id in self._cancelled:
                return False
            self._cancelled.add(order_id)
            self._changed.notify()
            return True

    def seconds(self, orders: list[Order]) -> float:
        if self.estimate is not None:
            return self.estimate
        with self._changed:
            left = sum(len(events) for _, _, events in self._open.values())
        return self.pause * (left + sum(len(list(self._events(order))) for order in orders))

    def remaining(self, order_id: str) -> float | None:
        with self._changed:
            found = self._open.get(order_id)
        return None if found is None else self.pause * len(found[2])

    def start(self) -> None:
        self._thread.start()

    def stop(self, drain: float) -> int:
        until = time.monotonic() + drain
        while self._open and time.monotonic() < until:
            time.sleep(0.01)
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self.hurry.set()
        self._thread.join()
        return len(self._open)

    def _events(self, order: Order):
        """Yield the events of an order that is drawn to its end."""
        first = 0 if order.image is None else 1
        for relay_pass in range(first, len(order.sizes)):
            name, how = ("relay", order.relay) if relay_pass else ("base", order.base)
            for done in range(1, how.steps + 1):
                shown = np.full((8, 8, 3), colour(order, relay_pass, done), np.uint8)
                preview = shown if order.previews else None
                yield Stepped(name, relay_pass, done, how.steps, preview)
                if "fail" in order.prompt:
                    yield Ended(False, "the values are not finite")
                    return
            last = relay_pass == len(order.sizes) - 1
            yield Drawn(name, relay_pass, picture(order, relay_pass), last)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._open and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                ids = list(self._open)
            for order_id in ids:
                self._advance(order_id)

    def _advance(self, order_id: str) -> None:
        order, listener, events = self._open[order_id]
        if "slow" in order.prompt:
            self._wait_for_hurry(order_id)
        elif self.pause:
            time.sleep(self.pause)
        with self._changed:
            if self._stopping:
                return
            event = Ended(True) if order_id in self._cancelled else events.pop(0)
            over = isinstance(event, Ended) or (isinstance(event, Drawn) and event.last)
            if over:
                del self._open[order_id]
                self._cancelled.discard(order_id)
            if isinstance(event, Drawn) and event.last:
                self.drawn.append(order_id)
        listener(event)

    def _wait_for_hurry(self, order_id: str) -> None:
        while order_id not in self._cancelled and not self._stopping:
            if self.hurry.is_set() or self.permits.acquire(timeout=0.01):
                return
