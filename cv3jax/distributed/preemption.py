"""Stop when asked to: SIGTERM (a scheduler's preemption), SIGHUP or the first Ctrl-C.

They end a run after its step, with a checkpoint.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from cv3jax.distributed import hosts
from cv3jax.distributed.liveness import Peers
from data_pipeline.io import signals
from data_pipeline.io.errors import FailedRunError, StoppedError
from data_pipeline.io.progress import say


class NonFiniteLossError(FailedRunError):
    """Loss, gradient or parameters became NaN or infinite; nothing of that step was saved."""


class DivergedError(FailedRunError):
    """A distillation round moved further from its goal than where it began."""


@contextlib.contextmanager
def preemptible(workdir: Path) -> Iterator[None]:
    """Let a run that SIGTERM stopped end with exit code 0, after it has said so.

    A preempted run has done what it should. workdir: of the run. Where a checkpoint is there, the
    code is 0 also between its loops, where there is nothing to save; 143 before the first one.
    """
    try:
        with signals.saving(lambda: hosts.saved() or has_checkpoint(workdir)):
            yield
    except StoppedError as e:
        if e.signal != signal.SIGTERM:
            raise
        say(f"cv3jax: {e}")


def has_checkpoint(workdir: Path) -> bool:
    """Return whether this run, or a round of this distillation, has saved anything."""
    places = (workdir, *(workdir / "rounds").glob("*"))
    return any(path.name.isdigit() for place in places for path in place.glob("checkpoints/*"))


@contextlib.contextmanager
def noticing(
    peers: Peers | None = None,
    *,
    ends: str = "the run ends after this step, with a checkpoint; a second signal ends it without",
) -> Iterator[Callable[..., int | None]]:
    """Note the first signal within the block without obeying it; a second one ends the process.

    Yields a function that is called with each step after it was begun. It returns the signal's
    number once the signal has come. With `peers` it is the signal of any process, returned in all
    of them at the same step. `ends` is what is printed when the signal comes. A signal that an
    earlier block noted, too late for its last step, counts as the first one of this block.
    """
    received = [number for number in (signals.first(),) if number]

    def noticed(step: int = 0) -> int | None:
        first = received[0] if received else None
        return peers.last(step, first) if peers else first

    def note(number: int) -> None:
        received.append(number)
        # not print: the signal may have come in the middle of one
        os.write(2, f"\ncv3jax: {signal.Signals(number).name}: {ends}\n".encode())

    with signals.heeding(note):
        yield noticed
