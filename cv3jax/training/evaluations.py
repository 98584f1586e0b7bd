"""The evaluations of a run: when they are due, their lines, and the best checkpoint.

WORKDIR/best.json names the best checkpoint that is there: {"step", "metric", "value", "better",
"evaluation"}. It is written before its line of metrics, and the checkpoint that was the best before
is removed after that. So whenever a run is killed, best.json names a whole checkpoint, or one that
the next start puts right.
"""

import json
import math
from pathlib import Path
from typing import Any

from cv3jax.checkpoints import runs
from cv3jax.distributed import processes
from cv3jax.training.assessing import Assess
from cv3jax.training.metrics import read_lines
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import read_json, replacing
from data_pipeline.io.progress import say

FILE = "best.json"
FIELD = "evaluation"  # of a line of metrics: `Assess.of`
NEEDED = {"step": int, "metric": str, "value": float, "better": str, FIELD: str}


def read_best(workdir: Path) -> dict | None:
    """Return what best.json says, or None where there is none. Raises InputError on damage."""
    path = workdir / FILE
    if not path.exists():
        return None
    best = read_json(path)
    if not all(isinstance(best.get(name), kind) for name, kind in NEEDED.items()):
        raise InputError(f"{path} is damaged: it names no checkpoint; restore or remove it")
    return best


class Evaluations:
    """The evaluations of one sitting of a run. `kept`: the step of the best checkpoint, or None."""

    def __init__(self, workdir: Path, assess: Assess | None, *, every: int, last: int, best: str):
        """Evaluate every so many steps, and at the last. best: the figure that is chosen by."""
        self._workdir, self._assess, self._every, self._last = workdir, assess, every, last
        self._metric, self._best, self._evaluated = best, None, set()
        self.kept: int | None = None

    def begin(self) -> None:
        """Find the best checkpoint that is there, and which steps have their line.

        Process 0 calls it before it removes any checkpoint; then all call `share`.
        """
        there, best = runs.steps(self._workdir / "checkpoints"), read_best(self._workdir)
        lines = []
        if self._assess is not None:
            of, every = self._assess.of, read_lines(self._workdir / "metrics.jsonl")
            lines = [line for line in every if line.get(FIELD) == of]
        self._evaluated = {line["step"] for line in lines}
        self._best = best
        if best is None or best["step"] not in there:
            self._best = None
            for line in lines:
                if line["step"] in there:
                    self._consider(line["step"], line)
        if self._best != best:
            self._write()

    def share(self) -> None:
        """Have all processes know the best step. All of them call it."""
        self.kept = processes.first("best step", lambda: self._best and self._best["step"])

    def due(self, step: int) -> bool:
        """Return whether an evaluation comes after this step."""
        if self._assess is None or not self._every or step == 0:
            return False
        return step % self._every == 0 or step == self._last

    def missing(self, step: int) -> bool:
        """Return whether an evaluation of the restored `step` is due that has no line yet.

        A kill or stop prevented it. The step may be newer than the workdir's checkpoints.
        """
        return self.due(step) and processes.first("missing", lambda: step not in self._evaluated)

    def run(self, ema: Any, step: int, log: Any) -> None:
        """Evaluate the EMA after `step` updates, write its line, and keep the best."""
        figures = self._assess.figures(ema)
        try:
            if processes.main():
                self._note(figures, step)
            log.write(step, {**figures, FIELD: self._assess.of})
        finally:  # where process 0 cannot write, the others do not wait for it
            self.share()

    def _note(self, figures: dict[str, float], step: int) -> None:
        """Say the figures of a step, and write best.json where its checkpoint is the best."""
        before = self._best
        if step in runs.steps(self._workdir / "checkpoints"):
            self._consider(step, figures)
        if self._best is not before:
            self._write()
        best = "; the best so far" if self._best is not before else ""
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if _first(name))
        say(f"cv3jax: step {step}: {shown}{best}")

    def _consider(self, step: int, figures: dict[str, float]) -> None:
        """Make `step` the best where its figure is better, or the best was measured otherwise."""
        value = figures.get(self._metric) if self._metric else None
        if value is None or math.isnan(value):
            return
        now = {"metric": self._metric, FIELD: self._assess.of}
        better, best = self._assess.better[self._metric], self._best
        if best is not None and all(best[name] == x for name, x in now.items()):
            ahead = value < best["value"] if better == "lower" else value > best["value"]
            if not ahead:
                return
        self._best = {"step": step, "value": float(value), "better": better, **now}

    def _write(self) -> None:
        path = self._workdir / FILE
        if self._best is None:
            path.unlink(missing_ok=True)
            return
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self._best) + "\n")


def _first(name: str) -> bool:
    """Return whether a figure is shown while the run goes on, and not only in its files."""
    return "_t" not in name
