"""Say on stderr what a command does while it works: bars of steps, and waits named before they end.

On a terminal a bar rewrites its line. A file or a pipe gets a line every half minute instead, and
no carriage returns.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from tqdm import tqdm

from data_pipeline.io.terminal import MOST, visible

EVERY = {True: 1.0, False: 30.0}  # seconds between two updates of a bar: on a terminal, in a file
SOON, AGAIN = 1.0, 60.0  # seconds until a wait is named, and between reminders of it
# of a bar in a file, where nothing is drawn
LINE = "{desc}: {percentage:.0f}%, {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}, {rate_fmt}"
LINE += "{postfix}]"


waits: list[str] = []  # what is being waited for now, the innermost last


class Lines:
    """A text stream for tqdm to write to: each of its updates becomes a line of `stream`."""

    def __init__(self, stream: TextIO):
        """Write to `stream`."""
        self.encoding = getattr(stream, "encoding", None)
        self._stream, self._last = stream, ""

    def write(self, text: str) -> None:
        """Write the lines of `text` without what would move the cursor, and none twice."""
        for line in text.replace("\x1b[A", "").replace("\r", "\n").split("\n"):
            done = line.partition(" [")[0].rstrip()
            if done and done != self._last:
                self._stream.write(f"{line.rstrip()}\n")
                self._last = done

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


def bar(total: int, what: str, unit: str, *, initial: int = 0) -> tqdm:
    """Return a progress bar with an ETA on stderr, of `total` units of which `initial` are done.

    Update it by `bar.update(n)` from a `with` block. The unit "B" is shown in kilobytes and more.
    """
    terminal = sys.stderr.isatty()
    kind = {"dynamic_ncols": True} if terminal else {"position": 0, "bar_format": LINE}
    return tqdm(
        total=total,
        initial=initial,
        desc=visible(what, MOST),
        unit=unit,
        unit_scale=unit == "B",
        unit_divisor=1024,
        file=sys.stderr if terminal else Lines(sys.stderr),
        mininterval=EVERY[terminal],
        miniters=0,  # the interval alone decides, also of an update by 0 that changes the postfix
        **kind,
    )


def say(line: str) -> None:
    """Write lines to stderr, above the bars that are there; each of them is made visible."""
    tqdm.write("\n".join(visible(each, MOST) for each in line.split("\n")), file=sys.stderr)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on stderr that `what` is being done, such as "compiling the train step".

    It is said after `SOON` seconds, again every `AGAIN` seconds, and at the end with the seconds
    that it took. What is done sooner is not mentioned.
    """
    began, done, said = time.monotonic(), threading.Event(), threading.Event()

    def watch() -> None:
        if done.wait(SOON):
            return
        said.set()
        say(f"cv3jax: {what} ...")
        while not done.wait(AGAIN):
            say(f"cv3jax: {what}: {time.monotonic() - began:.0f} s so far ...")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    waits.append(what)
    try:
        yield
    finally:
        waits.remove(what)
        done.set()
        thread.join()
    if said.is_set():
        say(f"cv3jax: {what}: done in {time.monotonic() - began:.1f} s")
