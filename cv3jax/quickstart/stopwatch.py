"""Measure seconds per stage, kept across restarts."""

import contextlib
import threading
import time
from pathlib import Path

from data_pipeline.io import kept_fields
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import read_json, write_json

_SECONDS = kept_fields.number("Seconds that a stage took.", 0, 1e9)


class Stopwatch:
    """The seconds of each stage, kept in a file so that they add up over restarts.

    Those of a killed stage count too, up to the last tick.
    """

    TICK = 2.0

    def __init__(self, path: Path, install: float):
        """Continue the file at `path`. install: seconds of the installation; 0 keeps the file's."""
        self.path = path
        self.seconds = read_json(path) if path.exists() else {}
        if said := kept_fields.wrong(self.seconds, dict.fromkeys(self.seconds, _SECONDS)):
            raise InputError(f"{path} is damaged ({said}); remove it to measure anew")
        self.seconds["install"] = install or self.seconds.get("install", 0.0)

    def run(self, stage: str, work):
        """Return `work()`, and add its time to `stage`."""
        before, began, done = self.seconds.get(stage, 0.0), time.monotonic(), threading.Event()

        def tick():
            while not done.wait(self.TICK):
                with contextlib.suppress(OSError):  # the work itself reports a full disk
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
