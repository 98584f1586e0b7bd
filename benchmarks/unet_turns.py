"""Time the sides of benchmarks/unet.py in turns, each in a process of its own."""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np
from measure import ROOT
from unet_sides import OURS, Case

from cv3jax.distributed import huge_pages
from cv3jax.distributed.backend import POOL

HUGE = "torch, huge pages"
CACHE = "JAX_COMPILATION_CACHE_DIR"  # so that ours compiles once for all rivals
CLOSE = {"float32": 1e-3, "bfloat16": 5e-2}  # of the largest output


class Sides:
    """The worker processes of a case, and what they said of themselves."""

    def __init__(self, case: Case, rounds: int, folder: str):
        """Note the case; nothing is started yet."""
        self.case, self._rounds, self._folder = case, rounds, Path(folder)
        self.ready: dict[str, dict] = {}

    def took(self, names: tuple[str, ...]) -> dict[str, list[float]]:
        """Return the seconds of these sides, in turns. Raises RuntimeError where one fails."""
        commands = {name: self._command(name) for name in names}
        # a side alone takes what a GPU has, as a run does
        pool = {} if len(names) > 1 else {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", POOL: "0.9"}
        with measure.workers(commands, pool) as running:
            self.ready |= {name: worker.ready for name, worker in running.items()}
            for rival in names:
                if rival != OURS:
                    self._check(rival)
            return measure.turns(
                {name: _second_of(worker) for name, worker in running.items()},
                self._rounds,
                self._say,
            )

    def _command(self, side: str) -> list[str]:
        asked = dataclasses.asdict(self.case)
        own = ["env", f"PYTHONPATH={ROOT}", f"{CACHE}={os.environ.get(CACHE, self._folder)}"]
        own += [f"{huge_pages.WISH}={huge_pages.VALUE}"] if side == HUGE else []
        flags = [f"--{name}={value}" for name, value in asked.items() if value]
        flags += [f"--worker={side}", f"--folder={self._folder}"]
        return [*own, sys.executable, str(ROOT / "benchmarks/unet.py"), *flags]

    def _say(self, line: str) -> None:
        print(f"{self.case.what} {self.case.size}: {line}", file=sys.stderr, flush=True)

    def _check(self, rival: str) -> None:
        """Note how far a rival's output is from ours. Raises RuntimeError where it is too far."""
        a, b = np.load(self._folder / f"{OURS}.npy"), np.load(self._folder / "theirs.npy")
        apart = self.ready[rival]["difference"] = float(np.abs(a - b).max() / np.abs(a).max())
        if not apart <= CLOSE[self.case.dtype]:
            raise RuntimeError(
                f"{self.case.what} {self.case.size}: {OURS} and {rival} differ by {apart:.1e} of"
                " the largest value"
            )


def _second_of(call: Callable[[], float]) -> Callable[[], float]:
    """Return a function that calls twice and returns the seconds of the second call.

    While a side waits for its turn, its free memory may go back to the system.
    """

    def run() -> float:
        call()
        return call()

    return run


def compare(
    case: Case,
    rounds: int,
    rivals: list[str],
    *,
    apart: bool,
    keep: Callable[[dict], None],
) -> dict:
    """Return the figures of one row. keep: called with them whenever there are more.

    apart: one side after the other, and a rival that fails is noted in `failed`.

    Raises:
        RuntimeError: if the two sides do not compute the same, or one ends.
    """
    took: dict[str, dict[str, list[float]]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(case, rounds, folder)

        def row() -> dict:
            ready, size = sides.ready, case.known
            return {
                **dataclasses.asdict(case),
                **{name: getattr(size, name) for name in ("channels", "side", "batch")},
                "rounds": rounds,
                "parameters": ready[OURS]["parameters"],
                "flops": ready[OURS]["flops"],
                "seconds": took,
                "failed": failed,
                "first_call_seconds": {name: value["first"] for name, value in ready.items()},
                "memory_bytes": {name: value.get("memory") for name, value in ready.items()},
                "difference": {name: ready[name]["difference"] for name in rivals if name in took},
                "ratio": {
                    rival: measure.ratios(values[OURS], values[rival])
                    for rival, values in took.items()
                    if rival in values
                },
            }

        alone = sides.took((OURS,)) if apart or not rivals else {}
        if alone:
            took["alone"] = alone
            keep(row())
        for rival in rivals:  # one pair at a time: three would not fit
            try:
                took[rival] = alone | sides.took((rival,) if apart else (OURS, rival))
            except RuntimeError as e:
                if not apart:
                    raise
                failed[rival] = str(e)
            keep(row())
        return row()
