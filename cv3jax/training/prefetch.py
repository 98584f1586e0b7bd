"""The batch after the present one is on the devices already, or on its way there, while a step
runs.
"""

from collections.abc import Callable
from typing import Any


class Ahead:
    """`place`d batches of the loader `data`, at most one of them held before it is taken.

    The state is that of the batches taken: one that is only held comes again after a restart. What
    the loader raises for a batch is raised when that batch is taken, so that the steps before it
    are done and saved first.
    """

    def __init__(self, data: Any, place: Callable[[Any], Any]):
        self._data, self._place = data, place
        self._held: list[tuple[Any, Exception | None]] = []
        self._state = None  # before the one that is held

    def fetch(self) -> None:
        """Have the next batch: waits for the loader, and begins to place it."""
        if self._held:
            return
        self._state = self._data.get_state()
        try:
            self._held.append((self._place(next(self._data)), None))
        # whatever it is, it belongs to a batch that nobody has asked for yet
        except Exception as e:
            self._held.append((None, e))

    def __next__(self) -> Any:
        self.fetch()
        batch, error = self._held.pop()
        if error is not None:
            raise error
        return batch

    def get_state(self) -> dict:
        """Of the loader, when the batches taken so far had been."""
        return self._state if self._held else self._data.get_state()

    @property
    def damaged(self) -> int:
        """Damaged records passed over in the batches taken, of this process's rows."""
        return len(self.get_state().get("damaged", ()))
