"""WORKDIR/status.json: what a run is doing, written anew every few seconds by a thread.

It says the run's step, what it waits for, and when that was written. `cv3jax status` reads it: a
run whose file is old was killed, or its machine hangs. The thread looks at what the run's main
thread notes; nothing waits for it or for a device. Where the file cannot be written (a full disk),
one line says so, and the training goes on.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_pipeline.io import progress
from data_pipeline.io.errors import StoppedError, first_line
from data_pipeline.io.files import replacing

FILE = "status.json"
EVERY = 5.0  # seconds between two beats
_begun = threading.Event()  # the run is accepted, and may write into its workdir
_writers: list[Callable[[str], None]] = []  # of the run of this process
_notes: dict[str, Any] = {}  # of the run of this process; there is one at a time


def note(**facts: Any) -> None:
    """Note facts of the run for its next beat: name, step, steps, and doing() → a word."""
    if "step" in facts:
        facts["ended"] = time.time()  # of a step
    _notes.update(facts)


def begin() -> None:
    """Begin to write: the run has been accepted."""
    for write in _writers:
        write("running")
    _begun.set()


@contextlib.contextmanager
def beating(workdir: Path) -> Iterator[None]:
    """Write status.json from `begin` until the end of the block, and how it ended after it.

    A run that is refused before leaves the workdir as it was.
    """
    _notes.clear()
    _begun.clear()
    began, ended, said = time.time(), threading.Event(), []

    def write(state: str, why: str = "") -> None:
        facts = dict(_notes)
        doing = facts.pop("doing", str)()
        facts |= {"waits": progress.waits[-1:], "doing": doing, "state": state, "why": why}
        who = {"pid": os.getpid(), "host": socket.gethostname(), "began": began}
        facts |= {**who, "beat": time.time(), "every": EVERY}
        try:
            with replacing(workdir / FILE) as temporary:
                temporary.write_text(json.dumps(facts) + "\n")
        except OSError as e:
            if not said:
                said.append(e)
                line = f"{workdir / FILE} cannot be written ({e.strerror}); training continues"
                progress.say(f"cv3jax: {line}")

    def beat() -> None:
        while not ended.wait(EVERY):
            if _begun.is_set():
                write("running")

    _writers[:] = [write]
    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    state, why = "failed", ""
    try:
        yield
        state = "finished"
    except (StoppedError, KeyboardInterrupt) as e:
        state, why = "stopped", first_line(e)
        raise
    except BaseException as e:
        why = first_line(e)
        raise
    finally:
        ended.set()
        _writers.clear()
        thread.join(EVERY)
        if _begun.is_set():
            write(state, why)
