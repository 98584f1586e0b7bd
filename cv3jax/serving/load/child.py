"""A server in a process of its own, for measurements: started, waited for, and ended."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from data_pipeline.io import signals
from data_pipeline.io.errors import InputError

_READY = re.compile(r"ready at (http\S+)")
_KEPT = 200  # lines of stderr


class Child:
    """A server's process. `lines` is the end of what it said on stderr, `address` its URL."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        tell: Callable[[str], object] = lambda line: None,
    ):
        """Start the process and return when it is ready. tell: takes its lines.

        Raises InputError, with its last line, where it ends before.
        """
        self.lines: list[str] = []
        self._tell, self._ready = tell, threading.Event()
        self.address: str | None = None
        self.process = subprocess.Popen(
            argv,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        try:
            self._ready.wait()
        except BaseException:
            self.kill()
            raise
        if self.address is None:
            self._reader.join()
            last = self.lines[-1] if self.lines else "it said nothing"
            raise InputError(f"the server ended with code {self.process.wait()}: {last}")

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines = [*self.lines[1 - _KEPT :], line.rstrip("\n")]
            if found := _READY.search(line):
                self.address = found[1]
                self._ready.set()
            self._tell(line.rstrip("\n"))
        self._ready.set()

    def end(self, number: int = signal.SIGTERM, timeout: float | None = None) -> int:
        """Send a signal, wait until the process is over, and return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        code = self.process.wait(timeout)
        self._reader.join()
        return code

    def kill(self) -> int:
        """End the process at once, as a crash does."""
        return self.end(signal.SIGKILL)


def command(*flags: str) -> list[str]:
    """Return the command line of `cv3jax serve` with a port that is free and no access log."""
    return [
        *(sys.executable, "-m", "cv3jax", "serve", "--port", "0", "--access-log", "none"),
        *flags,
    ]


@contextlib.contextmanager
def serving(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Iterator[Child]:
    """Yield a server that is ready, and end it after the block, also when SIGTERM ends that."""
    with _exiting():
        child = Child(argv, environment=environment, tell=tell)
        try:
            yield child
            child.end()
        finally:
            child.kill()


@contextlib.contextmanager
def _exiting() -> Iterator[None]:
    """Let a signal raise SystemExit during the block, so that no process is left behind."""

    def note(number: int) -> None:
        sys.exit(128 + number)

    with signals.heeding(note):
        yield
