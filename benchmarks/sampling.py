"""Measure the seconds a picture by the cascade at the released sizes: 50 + 10 steps, and 4 + 1.

    python benchmarks/sampling.py --json sampling.json
    python benchmarks/sampling.py --size tiny --batch 2 --rounds 1

This is the paper's protocol: a batch of four pictures, 512² → 1024², from prompts to uint8 pixels,
guided with 7.5, without compilation. The stages of 4 + 1 steps are guidance-conditioned, as
distilled ones are. All parts compute in bfloat16, and the weights are random, because the time does
not depend on them. Each part has its own figure: text encoder, base, relay, autoencoder, and the
rest (noise and enlargement). Between parts the device is waited for. MFU is given if the chip's
peak is known. The JSON is written after each kind. At full size this takes a GPU of 40 GB.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import measure
import numpy as np
from cascade import distilled, picture_flops, released, tiny
from random_weights import cascade_params

from cv3jax.cascade.pipeline import Cascade
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.distributed.backend import size_pool, tune_cpu
from cv3jax.distributed.chips import chip_of

PARTS = ("text", "base", "relay", "vae", "rest")
FEW = {"base": 4, "relay": 1}
SIZES = ("full", "tiny")
COLUMNS = ("steps", "pictures", "s a picture", *PARTS, "MFU", "GB")


def describe(size: str) -> CascadeDescription:
    """Return a guided cascade of the released sizes in bfloat16, or a tiny one in float32."""
    return tiny() if size == "tiny" else released().computing_in("bfloat16")


def kinds(size: str) -> dict[str, CascadeDescription]:
    """Return the cascades that are measured, by their steps."""
    guided = describe(size)
    full = {name: stage.steps for name, stage in guided.stages.items()}
    return {
        f"{steps['base']} + {steps['relay']}": made
        for steps, made in ((full, guided), (FEW, distilled(guided, FEW)))
    }


class Laps:
    """The seconds of the parts of a batch, each until its values are computed."""

    def __init__(self):
        """Begin the first part."""
        self.seconds: Counter = Counter()
        self._began = time.perf_counter()

    def __call__(self, part: str, value: Any) -> Any:
        """End a part with what it made, and begin the next one."""
        jax.block_until_ready(value)
        now = time.perf_counter()
        self.seconds[part] += now - self._began
        self._began = now
        return value


def measured(
    description: CascadeDescription, params: dict, batch: int, rounds: int
) -> dict[str, Any]:
    """Return the seconds of `rounds` batches, in all and by part; compilation is apart."""
    length, vocab = description.t5.length, description.t5.model.get("vocab", 32128)

    def tokenize(prompts: list[str]) -> np.ndarray:
        return np.random.default_rng(0).integers(0, vocab, (len(prompts), length), np.int32)

    cascade = Cascade(description, params, tokenize)
    prompts, seeds = [""] * batch, list(range(batch))

    def draw() -> tuple[float, Counter, int]:
        laps, began = Laps(), time.perf_counter()
        made = cascade.timed_by(laps).generate(prompts, seeds, final=True)
        return time.perf_counter() - began, laps.seconds, made["relay"].shape[1]

    first, _, side = draw()
    took = []
    for number in range(rounds):
        took.append(draw())
        print(f"batch {number + 1}: {took[-1][0]:.3f} s", file=sys.stderr, flush=True)
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "batch": batch,
        "side": side,
        "dtype": description.stages["base"].model.get("dtype", "float32"),
        "first_seconds": first,
        "seconds": [seconds for seconds, _, _ in took],
        "picture_seconds": measure.spread([seconds / batch for seconds, _, _ in took]),
        "part_seconds": {
            part: measure.spread([laps[part] / batch for _, laps, _ in took]) for part in PARTS
        },
        "memory_bytes": stats.get("peak_bytes_in_use"),
    }


def with_mfu(row: dict, parts: dict[str, int]) -> dict:
    """Return the row with the FLOPs of a picture by part, and the MFU where the peak is known."""
    chip, total = chip_of(jax.devices()[0].device_kind), sum(parts.values())
    row = {**row, "picture_flops": parts}
    if chip is None:
        return row
    rates = [total * row["batch"] / seconds / chip.flops for seconds in row["seconds"]]
    return {**row, "mfu": measure.spread(rates)}


def cells(kind: str, row: dict) -> tuple:
    """Return a line of the table; seconds are those of a picture."""
    size = row["memory_bytes"]
    return (
        kind,
        f"{row['batch']} × {row['side']}²",
        measure.Spread(*row["picture_seconds"]),
        *(f"{row['part_seconds'][part][0]:.3g}" for part in PARTS),
        f"{row['mfu'][0]:.0%}" if "mfu" in row else "",
        "" if size is None else f"{size / 1e9:.2f}",
    )


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--size", choices=SIZES, default="full", help="of the cascade")
    made.add_argument("--batch", type=int, default=4, help="pictures at once (default: 4)")
    made.add_argument("--rounds", type=int, default=5, help="batches (default: 5)")
    made.add_argument("--json", type=Path, metavar="FILE")
    args = made.parse_args()
    if args.batch < 1 or args.rounds < 1:
        made.error("--batch and --rounds must be at least 1")
    tune_cpu()
    size_pool()
    facts = measure.facts()
    print(json.dumps(facts, indent=2), flush=True)
    figures: dict[str, dict] = {}

    def keep() -> None:
        measure.write_json(args.json, {**facts, "rows": figures})

    cascades, params = kinds(args.size), {}
    for kind, description in cascades.items():
        encoders = {part: params[part] for part in ("t5", "vae") if part in params}
        params.clear()  # the stages before are not held beside these
        params |= cascade_params(description, encoders)
        figures[kind] = measured(description, params, args.batch, args.rounds)
        keep()
    params.clear()
    for kind, description in cascades.items():  # afterwards: the figures above do not wait for it
        figures[kind] = with_mfu(figures[kind], picture_flops(description))
        keep()
    print(measure.table(COLUMNS, [cells(*each) for each in figures.items()]))


if __name__ == "__main__":
    main()
