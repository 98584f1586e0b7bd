"""Measure what the evaluations of a run cost, as a ratio to the same run without them.

    python benchmarks/eval_overhead.py --recipe scenes_base --steps 20 --rounds 5

Each round trains --steps steps twice, in turns and in one process: with an evaluation at the end
that measures nothing, and with the recipe's. Both run the same compiled step in `train_loop`, with
the real loader and without checkpoints and previews. A run has one evaluation in train.eval_every
steps, so the ratio of a turn is 1 + the evaluation's seconds / (train.eval_every × the seconds of a
step of that turn). The evaluation is the recipe's, on train.eval_records held-out scenes; with
--metrics it also draws and scores train.eval_pictures pictures. The first evaluation compiles its
programs; it is timed apart, and "run" is the ratio of the recipe's whole run with it.

Exits 1 if the median ratio or that of the run is above 1.03.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import measure

from cv3jax import recipes
from cv3jax.distributed.backend import tune_cpu
from cv3jax.evaluation.scorers import open_scorers
from cv3jax.training.assessing import Assess
from cv3jax.training.build import build
from cv3jax.training.loop import Cadence, Work, train_loop
from cv3jax.training.parsing import parse_stage
from cv3jax.training.run import evaluation_of, run
from cv3jax.training.settings import StageSettings
from cv3jax.training.stage import Stage
from data_pipeline.io.files import write_json
from data_pipeline.scenes import dataset

MOST = 1.03
SIDE = 128  # of the scenes
WARM = 2  # steps before the time is taken


def settings_of(recipe: str, folder: Path, given: list[str]) -> StageSettings:
    """Return the settings of a recipe on scenes in `folder`, which are rendered where missing."""
    for split, count in (("train", 256), ("heldout", 64)):
        if not (folder / split).exists():
            dataset.build(folder / split, dataset.SceneSettings(count, 0, split, size=SIDE))
    fields = [f"data.path={folder / 'train'}", f"train.eval_data={folder / 'heldout'}", *given]
    return parse_stage(recipes.load(recipe, [f"--config.{field}" for field in fields]))


def autoencoder(folder: Path) -> Path:
    """Return a cascade with an autoencoder of the scenes' sizes, after a few steps."""
    short = ("train.steps=4", "train.save_every=0", "train.preview_every=0", "train.eval_every=0")
    run(settings_of("scenes_vae", folder, list(short)), folder / "vae")
    return folder / "vae"


class Looped:
    """A stage that is trained in `train_loop` again and again, from the same state."""

    def __init__(self, settings: StageSettings, stage: Stage):
        """Compile the stage."""
        self._log, self._stage = settings.train.log_every, stage
        stage.compile()

    def seconds(self, steps: int, figures: Callable[[Any], dict]) -> tuple[float, float]:
        """Return (seconds of the steps with the evaluation, those of the evaluation alone).

        Two steps of warm-up come before.
        """
        times: dict[int | str, float] = {}

        def step(state: Any, batch: Any) -> tuple[Any, dict]:
            out = self._stage.step(state, batch)
            if len(times) < WARM:
                jax.block_until_ready(out[1])
                times[len(times)] = time.perf_counter()
            return out

        def evaluate(ema: Any) -> dict:
            times["begin"] = time.perf_counter()
            made = figures(ema)
            times["end"] = time.perf_counter()
            return made

        stage, last = self._stage, WARM + steps
        work = Work(
            "run",
            stage.like,
            stage.data,
            stage.place,
            step,
            assess=Assess(evaluate, {}, "benchmark"),
        )
        cadence = Cadence(last, log=self._log, save=0, preview=0, keep=1, eval=last)
        with tempfile.TemporaryDirectory() as workdir:
            train_loop(work, Path(workdir), stage.create(), cadence, {})
        return times["end"] - times[WARM - 1], times["end"] - times["begin"]


def finely(ratio: measure.Spread) -> str:
    """Return a ratio close to 1 with four decimals."""
    return f"{ratio.median:.4f} ({ratio.low:.4f} to {ratio.high:.4f})"


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="scenes_vae")
    parser.add_argument("--metrics", default="", help="such as judge (default: none)")
    parser.add_argument("--steps", type=int, default=60, help="timed in each round (default: 60)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--data", type=Path, help="folder for the scenes (default: a temporary one)"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.rounds < 1 or args.steps < 3:
        parser.error("--rounds must be at least 1, and --steps at least 3")
    tune_cpu()
    facts = measure.facts()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.data or Path(temporary)
        given = [f"train.eval_metrics={args.metrics}"]
        if "vae" not in args.recipe:
            given.append(f"cascade={autoencoder(folder)}")
        settings = settings_of(args.recipe, folder, given)
        stage = build(settings, folder / "run")
        assess, looped = evaluation_of(settings, stage, open_scorers), Looped(settings, stage)
        fresh = stage.create().ema
        first = measure.timed(lambda: assess.figures(fresh))()
        evaluation: list[float] = []

        def evaluated() -> float:
            whole, part = looped.seconds(args.steps, assess.figures)
            evaluation.append(part)
            return whole

        took = measure.turns(
            {
                "without": lambda: looped.seconds(args.steps, lambda ema: {})[0],
                "with": evaluated,
            },
            args.rounds,
            lambda line: print(line, flush=True),
        )
    train, without = settings.train, took["without"]
    step = [value / args.steps for value in without]
    apart = [train.eval_every * value for value in step]
    ratio = measure.ratios([a + b for a, b in zip(apart, evaluation, strict=True)], apart)
    count = -(-train.steps // train.eval_every)
    whole = train.steps * measure.spread(step).median
    entire = 1 + (first + (count - 1) * measure.spread(evaluation).median) / whole
    figures = {
        "recipe": args.recipe,
        "metrics": args.metrics,
        "steps": train.steps,
        "eval_every": train.eval_every,
        "eval_records": train.eval_records,
        "timed_steps": args.steps,
        "seconds": {**took, "evaluation": evaluation},
        "first_evaluation": first,
        "ratio": ratio,
        "run": entire,
    }
    print(json.dumps({**facts, "recipe": args.recipe}, indent=2))
    rows = [
        ("step", measure.spread(step), ""),
        ("evaluation", measure.spread(evaluation), finely(ratio)),
        ("first evaluation, with compilation", f"{first:.3g}", f"{entire:.4f} of the run's"),
    ]
    print(measure.table(("", "s", "of the time without"), rows))
    write_json(args.json, {**facts, **figures})
    if over := [f"{value:.3f}" for value in (ratio.median, entire) if value > MOST]:
        sys.exit(f"evaluations take {' and '.join(over)} times the run without (bar: {MOST})")


if __name__ == "__main__":
    main()
