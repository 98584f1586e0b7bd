"""Stopping when asked to: SIGTERM (a scheduler's preemption) and the first Ctrl-C end a run after its step, with a checkpoint."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """A run ended because it was asked to. `signal` is the number by which."""

    def __init__(self, number: int, message: str):
        super().__init__(f"{signal.Signals(number).name}: {message}")
        self.signal = number


@contextlib.contextmanager
def noticing(ends: str = "ends after this step, with a checkpoint") -> Iterator[Callable[[], int | None]]:
    """Within the block the first of SIGNALS is noted and not obeyed: the yielded function gives its number. A second one is obeyed.

    `ends` is what is said when it comes.
    """
    received = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: None
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number, frame):
        received.append(number)
        restore()
        # not print: the signal may have come in the middle of one
        os.write(2, f"\ncv3jax: {signal.Signals(number).name}: {ends}\n".encode())

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: received[0] if received else None
    finally:
        restore()
