"""Show on one line of stderr what a long computation is doing, and for how long.

Compilers show nothing for minutes.
"""

import resource
import sys
import threading
import time
from pathlib import Path

EVERY = {True: 1.0, False: 60.0}  # seconds between two updates, on a terminal and in a log


class Progress:
    """Report a computation's phases: `with Progress() as p: p.phase("compiling"); …; p.end()`."""

    def __init__(self, stream=None):
        """Report to `stream`, which is stderr by default."""
        self.stream = stream or sys.stderr
        self.seconds: dict[str, float] = {}
        self._name, self._began, self._done = "", 0.0, threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> "Progress":
        """Start the thread that updates the line."""
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        """End the phase and stop the thread."""
        self.end()
        self._done.set()
        self._thread.join()

    def phase(self, name: str) -> None:
        """End the current phase and begin the phase `name`."""
        self.end()
        with self._lock:
            self._name, self._began = name, time.monotonic()
            self._say(0.0)

    def end(self) -> dict[str, float]:
        """End the phase. Returns the seconds of each phase so far."""
        with self._lock:
            if self._name:
                self.seconds[self._name] = time.monotonic() - self._began
                self._say(self.seconds[self._name], last=True)
                self._name = ""
            return dict(self.seconds)

    def _tell(self) -> None:
        while not self._done.wait(EVERY[self.stream.isatty()]):
            with self._lock:
                if self._name:
                    self._say(time.monotonic() - self._began)

    def _say(self, seconds: float, last: bool = False) -> None:
        terminal = self.stream.isatty()
        if not terminal and last and seconds < 1:
            return
        line = (
            f"{self._name:<10}{seconds:6.0f} s   {_resident() / 1e9:.1f} GB of this machine's"
            " memory"
        )
        print(
            f"\r{line}" if terminal else line,
            end="\n" if last or not terminal else "",
            file=self.stream,
            flush=True,
        )


def _resident() -> int:
    """Return the bytes of memory that this process holds.

    Where the system does not say, return the most that it ever held.
    """
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
