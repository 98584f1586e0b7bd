"""Looking at a round while it trains: distance to the full sampler, the best weights so far, and a
stop where it only gets worse.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import StageDescription
from cv3jax.distillation.evaluation import Bench
from cv3jax.distillation.settings import RoundSettings
from cv3jax.distributed import processes
from cv3jax.distributed.preemption import DivergedError
from cv3jax.reports.pictures import save_png
from cv3jax.training.metrics import read_lines
from data_pipeline.io.files import replacing

LINES, BEST = "evaluations.jsonl", "best"


class Watch:
    """The evaluations of a round under `directory`.

    A resumed round makes those after its checkpoint again, with the same figures.
    """

    def __init__(
        self,
        directory: Path,
        round: RoundSettings,
        bench: Bench,
        stage: StageDescription,
        full: np.ndarray,
        diverged: float,
    ):
        self.directory, self._round, self.bench, self._stage, self._full, self._diverged = (
            directory,
            round,
            bench,
            stage,
            full,
            diverged,
        )

    def lines(self, before: int | None = None) -> list[dict]:
        """The evaluations, {"step", "all", and each w}, of steps before `before`."""
        return [
            line
            for line in read_lines(self.directory / LINES)
            if before is None or line["step"] < before
        ]

    def best(self) -> dict | None:
        """The evaluation of the weights that are kept; None where there are none yet.

        As process 0 reads it.
        """
        return processes.first("best", lambda: kept(self.directory))

    def look(self, params: Any, step: int, keep: bool = True, **others: float) -> np.ndarray:
        """Evaluate the EMA `params` after `step` updates.

        Keeps them where they are the best so far. Returns the contact sheet.

        keep: whether they may be what the round leaves. others: what else is to stand in the line.

        Raises:
            DivergedError: they are `diverged` times as far from the full sampler as the round was
                at its start.
        """
        latents = self.bench.sample(self._stage, params, self._round.steps)
        line, before = (
            {"step": step, **self.bench.distances(latents, self._full), **others},
            self.lines(step),
        )
        # whatever an attempt kept that left no checkpoint to resume from: of another recipe, it may
        # be
        if step == 0 and processes.main():
            (self.directory / f"{BEST}.npz").unlink(missing_ok=True)
        if keep and ((best := self.best()) is None or line["all"] < best["all"]):
            cascades.save_part(self.directory / BEST, params)
            if processes.main():
                place = self.directory / f"{BEST}.npz"
                with replacing(place) as temporary, temporary.open("wb") as file:
                    np.savez(file, latents=latents, line=json.dumps(line))
        picture = self.bench.picture({"full": self._full, f"{self._round.steps} steps": latents})
        processes.barrier("evaluated")  # who reads the lines of earlier steps has done so
        if processes.main():
            save_png(self.directory / "previews" / f"step_{step:07d}.png", picture)
            with replacing(self.directory / LINES) as temporary:
                temporary.write_text("".join(json.dumps(each) + "\n" for each in (*before, line)))
        start = next((other["all"] for other in before if other["step"] == 0), None)
        # from no distance at all there is no ratio
        if start and not line["all"] <= self._diverged * start:
            raise DivergedError(
                f"round {self._round.number} diverged at update {step}: the student is"
                f" {line['all']:.3g} from the full sampler, {line['all'] / start:.1f} times as far"
                f" as at the round's start; remove {self.directory} and lower the round's learning"
                " rate"
            )
        return picture


def kept(directory: Path) -> dict | None:
    """The evaluation of the weights that the round under `directory` keeps; None where it keeps
    none yet.
    """
    if not (directory / f"{BEST}.npz").exists():
        return None
    with np.load(directory / f"{BEST}.npz", allow_pickle=False) as file:
        return json.loads(file["line"].item())
