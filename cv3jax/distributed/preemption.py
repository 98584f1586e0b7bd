"""Stop when asked to: SIGTERM (a scheduler's preemption) or the first Ctrl-C.

They end a run after its step, with a checkpoint.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from cv3jax.distributed.liveness import Peers
from data_pipeline.io.errors import FailedRunError, StoppedError
from data_pipeline.io.progress import say

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class NonFiniteLossError(FailedRunError):
    """Loss, gradient or parameters became NaN or infinite; nothing of that step was saved."""


class DivergedError(FailedRunError):
    """A distillation round moved further from its goal than where it began."""


@contextlib.contextmanager
def preemptible() -> Iterator[None]:
    """Let a run that SIGTERM stopped end with exit code 0, after it has said so.

    A preempted run has done what it should.
    """
    try:
        yield
    except StoppedError as e:
        if e.signal != signal.SIGTERM:
            raise
        say(f"cv3jax: {e}")


@contextlib.contextmanager
def noticing(
    peers: Peers | None = None, *, ends: str = "the run ends after this step, with a checkpoint"
) -> Iterator[Callable[..., int | None]]:
    """Note the first of SIGNALS within the block without obeying it; a second one is obeyed.

    Yields a function that is called with each step after it was begun. It returns the signal's
    number once the signal has come. With `peers` it is the signal of any process, returned in all
    of them at the same step. `ends` is what is printed when the signal comes.
    """
    received = []

    def noticed(step: int = 0) -> int | None:
        first = received[0] if received else None
        return peers.last(step, first) if peers else first

    # only the main thread may set handlers
    if threading.current_thread() is not threading.main_thread():
        yield noticed
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
        yield noticed
    finally:
        restore()
