"""Count the pixels of pictures that depend on what else is drawn: there must be none.

    python benchmarks/serve_identity.py --json benchmarks/results/serve_identity.json

The engine of `cv3jax serve` draws some orders one by one, with nothing beside them. They have
random prompts, seeds, sizes, steps, guidance, η and, for enlargements, pictures and strengths. Then
it draws random mixtures of them, which come at random times while others of the mixture are
cancelled. Each picture of each stage has to be the same to the bit. The packaged student `scenes`
has its own numbers of steps; `--checkpoint scenes_teacher` takes any. Exits 1 on any difference.
"""

import argparse
import dataclasses
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np

from cv3jax.cascade.sizes import Size
from cv3jax.checkpoints.description import CascadeDescription, StageDescription
from cv3jax.distributed.backend import tune_cpu
from cv3jax.serving.engine.opening import EngineSettings, open_engine
from cv3jax.serving.engine.unit_engine import UnitEngine
from cv3jax.serving.orders import Choice, Drawn, Ended, Event, Order
from data_pipeline.scenes.grammar import caption, sample_scene

SIZES = (Size(64, 64), Size(128, 128), Size(96, 128))
MOST_STEPS = 6


class Heard:
    """A listener that keeps pictures, and can be waited for."""

    def __init__(self):
        """Have heard nothing yet."""
        self.pictures: list[np.ndarray] = []
        self.ended: Ended | None = None
        self.over = threading.Event()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, Drawn):
            self.pictures.append(event.image)
        if isinstance(event, Ended):
            self.ended = event
        if isinstance(event, Ended) or (isinstance(event, Drawn) and event.last):
            self.over.set()


def choice(stage: StageDescription, draws: np.random.Generator) -> Choice:
    """Return random settings that a stage was trained for."""
    known = stage.distilled
    low, high = known.w if known and known.w else (1.0, 8.0)
    guidance, eta = float(draws.uniform(low, high)), float(draws.choice([0.0, 0.0, 0.5, 1.0]))
    if known:
        return Choice(known.steps, guidance, eta)
    strength = float(draws.choice([1.0, 0.6])) if stage.kind == "relay" else 1.0
    return Choice(int(draws.integers(1, MOST_STEPS + 1)), guidance, eta, strength)


def order(
    number: int, engine: UnitEngine, known: CascadeDescription, draws: np.random.Generator
) -> Order:
    """Return a random order."""
    sizes = engine.sizes[draws.integers(len(engine.sizes))]
    image = None
    if len(sizes) > 1 and draws.random() < 0.2:
        image = draws.integers(0, 256, (*sizes[0], 3), np.uint8)
    return Order(
        f"{number}",
        caption(sample_scene(1, int(draws.integers(10_000)))),
        int(draws.integers(2**32)),
        sizes,
        choice(known.stages["base"], draws),
        choice(known.stages["relay"], draws),
        image,
        previews=bool(draws.random() < 0.3),
    )


def check(name: str, orders: int, mixtures: int, batch: int) -> dict[str, Any]:
    """Return the figures of one cascade."""

    def say(line: str) -> None:
        print(f"{name}: {line}", file=sys.stderr, flush=True)

    engine = open_engine(name, EngineSettings(SIZES, batch=batch), say)
    engine.start()
    draws, known = np.random.default_rng(0), engine.description
    asked = [order(number, engine, known, draws) for number in range(orders)]
    alone = []
    for one in asked:
        heard = Heard()
        engine.submit(one, heard)
        heard.over.wait()
        alone.append(heard.pictures)
    say(f"{orders} orders are drawn alone")
    before, began = engine.gauges, time.monotonic()
    counts = {"pictures": 0, "pixels": 0, "differing": 0, "cancelled": 0, "failed": 0}
    for mixture in range(mixtures):
        mixed(engine, asked, alone, draws, counts)
        if (mixture + 1) % 20 == 0:
            say(f"{mixture + 1} mixtures: {counts}")
    seconds, after = time.monotonic() - began, engine.gauges
    engine.stop(0.0)
    lanes = engine.capabilities["lanes"]
    rows, units = (
        sum(after[key] - before[key] for key in after if key.startswith(kind))
        for kind in ("unit_rows_total", "units_total")
    )
    return {
        "cascade": name,
        "orders": orders,
        "mixtures": mixtures,
        "batch": batch,
        **counts,
        "seconds": seconds,
        "rows_per_unit": rows / units,
        "shapes": {lane: facts["rows"] for lane, facts in lanes.items()},
    }


def mixed(
    engine: UnitEngine,
    asked: list[Order],
    alone: list[list[np.ndarray]],
    draws: np.random.Generator,
    counts: dict[str, int],
) -> None:
    """Draw a random mixture of orders, and count the pixels that are not those drawn alone."""
    chosen = draws.choice(len(asked), int(draws.integers(2, 21)), replace=False)
    heard = {int(number): Heard() for number in chosen}
    cancelled = [int(number) for number in chosen if draws.random() < 0.15]
    for number, listener in heard.items():
        engine.submit(dataclasses.replace(asked[number], id=f"{number}"), listener)
        time.sleep(float(draws.choice([0.0, 0.0, draws.exponential(0.05)])))
    for number in cancelled:
        engine.cancel(f"{number}")
    for number, listener in heard.items():
        listener.over.wait()
        if listener.ended is not None:
            counts["cancelled" if listener.ended.cancelled else "failed"] += 1
        # also the pictures of stages before an order was cancelled
        for ours, theirs in zip(listener.pictures, alone[number], strict=False):
            counts["pictures"] += 1
            counts["pixels"] += ours.shape[0] * ours.shape[1]
            counts["differing"] += int((ours != theirs).any(-1).sum())


def main() -> None:
    """Draw, count, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", nargs="+", default=["scenes"], help="cascades (default: scenes)"
    )
    parser.add_argument("--orders", type=int, default=100, help="different ones (default: 100)")
    parser.add_argument("--mixtures", type=int, default=200, help="of them (default: 200)")
    parser.add_argument("--batch", type=int, default=8, help="most rows of a unit (default: 8)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    tune_cpu()
    facts = measure.facts()
    print(json.dumps(facts, indent=2), flush=True)
    figures = [check(name, args.orders, args.mixtures, args.batch) for name in args.checkpoint]
    head = ("cascade", "orders", "mixtures", "pictures", "pixels", "differing", "rows a unit")
    rows = [
        (
            each["cascade"],
            each["orders"],
            each["mixtures"],
            f"{each['pictures']:,}",
            f"{each['pixels']:,}",
            each["differing"],
            f"{each['rows_per_unit']:.1f} of {each['batch']}",
        )
        for each in figures
    ]
    print(measure.table(head, rows))
    measure.write_json(args.json, {**facts, "rows": figures})
    if any(each["differing"] or each["failed"] for each in figures):
        sys.exit("pictures depend on what shares their units")


if __name__ == "__main__":
    main()
