"""Provide what all benchmarks share: facts of the machine, timing in turns, spreads and tables.

Two things that are compared take turns, so that other load on the machine affects both. A ratio is
taken within each turn. JAX is imported where it is used: reading results does not need it.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """Hold the median and the quartiles of some values."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return median and quartiles as text."""
        return f"{_figure(self.median)} ({_figure(self.low)} to {_figure(self.high)})"


def _figure(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of some values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return the spread of the ratios of ours to theirs, turn by turn."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def turns(
    calls: dict[str, Callable[[], float]],
    rounds: int,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, list[float]]:
    """Return the seconds of each call in `rounds` turns; a call returns its own seconds.

    Every second turn runs the calls in reverse order.
    """
    took: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in list(calls)[:: 1 if number % 2 == 0 else -1]:
            took[name].append(calls[name]())
        say(
            f"round {number + 1}: "
            + ", ".join(f"{name} {values[-1]:.3f} s" for name, values in took.items())
        )
    return took


def timed(call: Callable[[], Any]) -> Callable[[], float]:
    """Return a function that calls JAX and returns the seconds until its outputs are computed."""
    import jax

    def run() -> float:
        began = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - began

    return run


def cpu_timed(call: Callable[[], Any]) -> Callable[[], float]:
    """Return a function that runs the call and returns the CPU seconds of this process.

    Other load on the machine changes them less than it changes the time by the clock.
    """
    import jax

    def run() -> float:
        began = time.process_time()
        jax.block_until_ready(call())
        return time.process_time() - began

    return run


def facts(*packages: str) -> dict[str, str]:
    """Return date, commit, hardware, load, and the versions of JAX and of `packages`."""
    return {
        "date": now(),
        "revision": revision(ROOT) or "none",
        "hardware": hardware(),
        "load": f"{os.getloadavg()[0]:.1f} processes waited for a core in the minute before",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", *packages)},
    }


def now() -> str:
    """Return the date and the minute, as results have them."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


ROOT = Path(__file__).resolve().parents[1]
CODE = ("cv3jax", "configs", "data_pipeline", "launch/topologies")  # what the package is made of


def revision(checkout: Path) -> str | None:
    """Return Git's short name of the commit of a checkout, or None outside of Git.

    It ends with "+" if the package's files differ from the commit.
    """

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(checkout), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=7", "HEAD") + (
            "+" if git("status", "--porcelain", "--", *CODE) else ""
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def hardware() -> str:
    """Return the processor, its cores, the memory and any accelerators as text."""
    import jax

    models = [
        line.partition(":")[2].strip()
        for line in _lines("/proc/cpuinfo")
        if line.startswith("model name")
    ]
    memory = [
        int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")
    ]
    parts = [models[0] if models else platform.machine(), f"{len(os.sched_getaffinity(0))} cores"]
    parts += [f"{memory[0] / 2**20:.0f} GiB"] if memory else []
    devices = jax.devices()
    return ", ".join(
        parts
        + ([] if devices[0].platform == "cpu" else [f"{len(devices)} × {devices[0].device_kind}"])
    )


def _lines(path: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError):  # not on Linux
        return Path(path).read_text().splitlines()
    return []


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table with aligned columns."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    return "\n".join(
        [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
    )


class Worker:
    """Start a process that runs one thing on request and returns its seconds.

    The process prints a line of JSON when it is ready (`ready`). Then it prints a line with the
    seconds for each line that it reads; see `serve`.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None):
        """Start the process and wait until it is ready."""
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.ready = self._read()

    def _read(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args)} ended with {self.process.wait()}")
        return json.loads(line)

    def __call__(self) -> float:
        """Run the process's call once and return its seconds."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Let the process end and wait for it."""
        self.process.stdin.close()
        self.process.wait()


@contextlib.contextmanager
def workers(
    commands: dict[str, Sequence[str]], environment: dict[str, str] | None = None
) -> Iterator[dict[str, Worker]]:
    """Yield workers by name, and kill them at the end of the block.

    One is made ready after the other, so that none is timed during another's compilation.
    """
    running: dict[str, Worker] = {}
    try:
        for name, command in commands.items():
            running[name] = Worker(command, environment)
        yield running
    finally:
        for worker in running.values():
            worker.process.kill()
            worker.process.wait()


def serve(ready: dict[str, Any], call: Callable[[], float]) -> None:
    """Print that this worker is ready, then run `call` for each line of stdin."""
    print(json.dumps(ready), flush=True)
    with contextlib.suppress(EOFError):
        while True:
            input()
            print(call(), flush=True)


def write_json(path: Path | None, figures: dict) -> None:
    """Write the figures as JSON to `path`, if it is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n")
