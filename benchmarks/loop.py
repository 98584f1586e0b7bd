"""Measure the time that the training loop adds to the bare train step.

    python benchmarks/loop.py --data runs/scenes --rounds 5

The loop adds transfers, metrics, time-keeping and the loader. The stage is the scenes' autoencoder
at the batch size whose step takes about --step seconds (0.2). All run the same compiled step. Each
round times --steps of each, in turns and in one process: the bare step on a batch on the device,
with one step dispatched in advance as in the loop; `train_loop` on batches that the host holds
already; and `train_loop` with the real loader, whose threads share the step's cores on a CPU: at
their lower priority, and at the step's own. The loop is timed from its third step on, with a line
of metrics every 10 steps, and without checkpoints or previews. Exits 1 if the median ratio of the
loop, or of the loop with the loader, is above 1.03.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import measure

from cv3jax import recipes
from cv3jax.distributed.backend import tune_cpu
from cv3jax.training.build import build
from cv3jax.training.data import loader_settings
from cv3jax.training.loop import Cadence, Work, train_loop
from cv3jax.training.parsing import parse_stage
from cv3jax.training.settings import StageSettings
from cv3jax.training.stage import Stage
from data_pipeline.io.files import write_json
from data_pipeline.loading.loader import make_loader
from data_pipeline.scenes import dataset

MOST = 1.03
LOADER = "loop, loader"
WARM = 3  # steps before the time is taken


def config(data: Path, batch: int) -> StageSettings:
    """Return the settings of the scenes' autoencoder at a batch size."""
    fields = (f"data.path={data}", f"batch.size={batch}", "batch.per_device=1024")
    return parse_stage(recipes.load("scenes_vae", [f"--config.{field}" for field in fields]))


def bare(stage: Stage, steps: int) -> float:
    """Return the seconds of one bare step on a batch that is on the device."""
    state, batch, before = stage.create(), stage.place(next(stage.data)), None
    for step in range(-WARM, steps):
        if step == 0:
            jax.block_until_ready(before)
            began = time.perf_counter()
        state, metrics = stage.step(state, batch)
        if before is not None:
            jax.block_until_ready(before)
        before = metrics
    jax.block_until_ready(before)
    return (time.perf_counter() - began) / steps


class Ready:
    """Return the same batch again and again, in place of a loader."""

    def __init__(self, batch: Any):
        """Keep the batch."""
        self.batch = batch

    def __next__(self) -> Any:
        """Return the batch."""
        return self.batch

    def get_state(self) -> dict:
        """Return the state of a loader that has none."""
        return {}

    def close(self) -> None:
        """Do nothing: there is no thread to end."""
        pass


def looped(stage: Stage, data: Any, steps: int) -> float:
    """Return the seconds of one step in `train_loop` over `data`.

    They are counted from the end of one step to the end of the last.
    """
    called = []

    def step(state, batch):
        called.append(time.perf_counter())
        return stage.step(state, batch)

    with tempfile.TemporaryDirectory() as workdir:
        work = Work("loop", stage.like, data, stage.place, step)
        cadence = Cadence(WARM + steps + 2, log=10, save=0, preview=0, keep=1)
        train_loop(work, Path(workdir), stage.create(), cadence, {})
    # step n + 2 is dispatched when step n has been looked at
    return (called[WARM + steps + 1] - called[WARM + 1]) / steps


def fitting(data: Path, seconds: float) -> tuple[int, Stage]:
    """Return the batch size, a power of 2, whose step takes about `seconds`, and its stage."""
    batch = 1
    while True:
        stage = build(config(data, batch), Path("."))
        stage.compile()
        took = bare(stage, 3)
        print(f"batch {batch}: {took * 1000:.0f} ms a step", file=sys.stderr)
        if took > 0.7 * seconds:
            return batch, stage
        batch *= 2


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="records to train on (default: 256 scenes, rendered first)"
    )
    parser.add_argument(
        "--step", type=float, default=0.2, help="seconds the step should take (default: 0.2)"
    )
    parser.add_argument("--steps", type=int, default=40, help="timed in each round (default: 40)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.rounds < 1 or args.steps < 1:
        parser.error("--rounds and --steps must be at least 1")
    tune_cpu()
    facts = measure.facts()
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or Path(folder) / "scenes"
        if args.data is None:
            dataset.build(data, dataset.SceneSettings(256, 0, "train", size=128))
        batch, stage = fitting(data, args.step)
        ready = Ready(next(stage.data))
        settings = loader_settings(config(data, batch))
        equal = make_loader(data, dataclasses.replace(settings, niceness=0))
        took = measure.turns(
            {
                "bare": lambda: bare(stage, args.steps),
                "loop": lambda: looped(stage, ready, args.steps),
                LOADER: lambda: looped(stage, stage.data, args.steps),
                f"{LOADER} at the step's priority": lambda: looped(stage, equal, args.steps),
            },
            args.rounds,
            lambda line: print(line, flush=True),
        )
    ratios = {
        name: measure.ratios(values, took["bare"])
        for name, values in took.items()
        if name != "bare"
    }
    print(json.dumps({**facts, "batch": batch}, indent=2))
    rows = [(name, measure.spread(values), ratios.get(name, "")) for name, values in took.items()]
    print(measure.table(("", "s a step", "of the bare step's"), rows))
    write_json(args.json, {**facts, "batch": batch, "seconds": took, "ratio": ratios})
    if over := [
        f"{name} takes {ratio} times the bare step"
        for name, ratio in ratios.items()
        if name in ("loop", LOADER) and ratio.median > MOST
    ]:
        sys.exit(f"{'; '.join(over)} (bar: {MOST})")


if __name__ == "__main__":
    main()
