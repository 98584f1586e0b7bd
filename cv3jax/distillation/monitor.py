"""Evaluate a round while it trains, keep its best weights, and stop it where it diverges."""

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
from cv3jax.training.metrics import read_lines
from cv3jax.training.over_time import Preview, keep_preview
from data_pipeline.io.bounded_json import parse_json
from data_pipeline.io.errors import counted
from data_pipeline.io.files import replacing

LINES, BEST = "evaluations.jsonl", "best"


class Watch:
    """The evaluations of a round under `directory`.

    A resumed round repeats those after its checkpoint, with the same figures.
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
        """Watch a round. full: the full sampler's latents. diverged: the factor that stops it."""
        self.directory, self._round, self.bench, self._stage, self._full, self._diverged = (
            directory,
            round,
            bench,
            stage,
            full,
            diverged,
        )

    def lines(self, before: int | None = None) -> list[dict]:
        """Return the evaluations, {"step", "all", and each w}, of steps before `before`.

        It is process 0 that reads them; all call it.
        """
        every = processes.first("evaluations", lambda: read_lines(self.directory / LINES))
        return [line for line in every if before is None or line["step"] < before]

    def best(self) -> dict | None:
        """Return the evaluation of the weights that are kept, or None where there are none yet.

        It is process 0 that reads it.
        """
        return processes.first("best", lambda: kept(self.directory))

    def look(self, params: Any, step: int, keep: bool = True, **others: float) -> np.ndarray:
        """Evaluate the EMA `params` after `step` updates. Returns the contact sheet.

        The weights are kept where they are the best so far. keep: whether they may be the result of
        the round. others: more figures for the line.

        Raises:
            DivergedError: they are `diverged` times as far from the full sampler as at the round's
                start.
        """
        latents = self.bench.sample(self._stage, params, self._round.steps)
        line, before = (
            {"step": step, **self.bench.distances(latents, self._full), **others},
            self.lines(step),
        )
        # remove what an earlier attempt kept that saved no checkpoint to resume from; its recipe
        # may be another
        if step == 0 and processes.main():
            (self.directory / f"{BEST}.npz").unlink(missing_ok=True)
        if keep and ((best := self.best()) is None or line["all"] < best["all"]):
            cascades.save_part(self.directory / BEST, params)
            if processes.main():
                place = self.directory / f"{BEST}.npz"
                with replacing(place) as temporary, temporary.open("wb") as file:
                    np.savez(file, latents=latents, line=json.dumps(line))
        picture = self.bench.picture(
            {"full": self._full, counted(self._round.steps, "step"): latents}
        )
        # all processes decode
        ours, theirs = (self.bench.at_one_weight(each) for each in (latents, self._full))
        preview = Preview(picture, ours, self.bench.prompts, theirs)
        if processes.main():
            keep_preview(self.directory / "previews", step, preview)
            with replacing(self.directory / LINES) as temporary:
                temporary.write_text("".join(json.dumps(each) + "\n" for each in (*before, line)))
        start = next((other["all"] for other in before if other["step"] == 0), None)
        # a distance of 0 has no ratio
        if start and not line["all"] <= self._diverged * start:
            raise DivergedError(
                f"round {self._round.number} diverged at update {step}: the student is"
                f" {line['all']:.3g} from the full sampler, {line['all'] / start:.1f} times as far"
                f" as at the round's start; remove {self.directory} and lower the round's learning"
                " rate"
            )
        return picture


def kept(directory: Path) -> dict | None:
    """Return the evaluation of the weights that the round under `directory` keeps, or None."""
    if not (directory / f"{BEST}.npz").exists():
        return None
    with np.load(directory / f"{BEST}.npz", allow_pickle=False) as file:
        return parse_json(file["line"].item(), nan=True)
