"""Prefetch the next batch: it is on the devices, or on its way there, while a step runs."""

from collections.abc import Callable
from typing import Any


class Prefetch:
    """Placed batches of the loader `data`, of which at most one is held before it is taken.

    The state is that of the batches taken, so a batch that is only held comes again after a
    restart. What the loader raises for a batch is raised when that batch is taken, so that the
    steps before it are done and saved first.
    """

    def __init__(self, data: Any, place: Callable[[Any], Any]):
        """Prefetch from `data`; `place` puts a batch on the devices."""
        self._data, self._place = data, place
        self._held: list[tuple[Any, Exception | None]] = []
        self._state = None  # of the loader before the batch that is held

    def fetch(self) -> None:
        """Wait for the loader's next batch, and begin to place it."""
        if self._held:
            return
        self._state = self._data.get_state()
        try:
            self._held.append((self._place(next(self._data)), None))
        # whatever the error is, it belongs to a batch that nobody has asked for yet
        except Exception as e:
            self._held.append((None, e))

    def __next__(self) -> Any:
        """Return the next batch."""
        self.fetch()
        batch, error = self._held.pop()
        if error is not None:
            raise error
        return batch

    def get_state(self) -> dict:
        """Return the loader's state after the batches that were taken."""
        return self._state if self._held else self._data.get_state()

    @property
    def damaged(self) -> int:
        """The damaged records that were skipped in the batches taken, in this process's rows."""
        return len(self.get_state().get("damaged", ()))
