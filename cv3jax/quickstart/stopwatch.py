"""Seconds a stage, kept across restarts."""

import contextlib
import threading
import time
from pathlib import Path

from data_pipeline.io.files import read_json, write_json


class Stopwatch:
    """Seconds by stage, kept in a file so that they add up over restarts, a killed stage's included
    (to the last tick).
    """

    TICK = 2.0

    def __init__(self, path: Path, install: float):
        self.path = path
        self.seconds = read_json(path) if path.exists() else {}
        self.seconds["install"] = install or self.seconds.get("install", 0.0)

    def run(self, stage: str, work):
        """`work()`, its time added to `stage`."""
        before, began, done = self.seconds.get(stage, 0.0), time.monotonic(), threading.Event()

        def tick():
            while not done.wait(self.TICK):
                with contextlib.suppress(OSError):  # a full disk is for the work itself to report
                    self._store(stage, before + time.monotonic() - began)

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            result = work()
        finally:
            done.set()
            ticker.join()
        self._store(stage, before + time.monotonic() - began)
        return result

    def _store(self, stage: str, value: float) -> None:
        self.seconds[stage] = value
        write_json(self.path, self.seconds)
