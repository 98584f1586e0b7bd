"""Account for the time of a run: the seconds that devices computed, and what they waited for.

"data" is the wait for the loader and for placing its batch. The next batch is fetched while a step
runs, so only the time by which this was longer than the step counts.
"""

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

KINDS = ("step", "data", "checkpoint", "preview", "evaluation", "compile", "other")
_COMPILED = "/jax/core/compile/backend_compile_duration"
now = time.monotonic  # tests replace it by their own clock


class Account:
    """The seconds by kind since a run began; their sum is the whole time.

    `add` adds those of earlier sittings. Steps are dispatched in advance, so what the host does
    while one of them runs costs nothing. From a step's dispatch to its end the time is "step". From
    its end to the next dispatch it is what the host was doing. A thread notes when each step ends,
    so that nobody has to wait for it.
    """

    def __init__(self):
        """Start the clock."""
        self.now = ""  # the kind of what the host does
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self._until = self._line = now()  # accounted for until here
        self._line_steps = self._line_data = 0.0
        self._host: list[tuple[str, float, float]] = []  # what the host did since, oldest first
        self._steps: deque[tuple[float, Future]] = deque()  # (time of dispatch, time of its end)
        self._compiled = 0
        self._watch = ThreadPoolExecutor(1, thread_name_prefix="step-end")
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def add(self, seconds: dict[str, float]) -> None:
        """Add the seconds of an earlier sitting."""
        for kind, value in seconds.items():
            self.seconds[kind] += value
        self._line_steps, self._line_data = self.seconds["step"], self.seconds["data"]

    @contextlib.contextmanager
    def doing(self, kind: str) -> Iterator[None]:
        """Count the time of the block as `kind`; a "step" that compiled counts as "compile"."""
        began, compiled, before = now(), self._compiled, self.now
        self.now = kind
        try:
            yield
        finally:
            self.now = before
            self._host.append(
                ("compile" if kind == "step" and self._compiled > compiled else kind, began, now())
            )

    def started(self, metrics: Any) -> None:
        """Note that a step was dispatched, whose results are `metrics`."""
        self._steps.append((now(), self._watch.submit(_end, metrics)))

    def finished(self) -> None:
        """Wait for the oldest running step, and account for the time until its end.

        Raises what the devices raised.
        """
        dispatched, end = self._steps.popleft()
        end = end.result()
        self._waited(dispatched)
        self.seconds["step"] += max(end - self._until, 0.0)
        self._until = max(end, self._until)

    def total(self) -> float:
        """Return the seconds of all kinds."""
        return sum(self.seconds.values())

    def busy(self) -> float:
        """Return the seconds since the last line in which devices computed or waited for data."""
        return self.seconds["step"] + self.seconds["data"] - self._line_steps - self._line_data

    def line(self) -> dict[str, float]:
        """Return the figures for a line of metrics.

        They are the seconds so far, in all and by kind, and for the time since the last line the
        shares in which the devices computed steps (goodput) and waited for data.
        """
        since, steps = self._until - self._line, self.seconds["step"] - self._line_steps
        data = self.seconds["data"] - self._line_data
        self._line, self._line_steps, self._line_data = (
            self._until,
            self.seconds["step"],
            self.seconds["data"],
        )
        named = {f"seconds_{kind}": value for kind, value in self.seconds.items()}
        shares = {
            "goodput": steps / since if since > 0 else 0.0,
            "data_wait": data / since if since > 0 else 0.0,
        }
        return {"seconds": self.total(), **named, **shares}

    def close(self) -> None:
        """Account for the time after the last step."""
        self._waited(now())
        self._watch.shutdown(wait=False, cancel_futures=True)
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _waited(self, until: float) -> None:
        """Account for the time from the last step's end until `until`, when devices were idle."""
        rest = max(until - self._until, 0.0)
        for kind, began, ended in self._host:
            share = max(min(ended, until) - max(began, self._until), 0.0)
            self.seconds[kind] += share
            rest -= share
        self.seconds["other"] += max(rest, 0.0)
        self._host = [span for span in self._host if span[2] > until]
        self._until = max(until, self._until)

    def _listen(self, event: str, duration: float, **_: Any) -> None:
        self._compiled += event == _COMPILED


def _end(metrics: Any) -> float:
    jax.block_until_ready(metrics)
    return now()
