"""Compile one train step for TPUs with and without flags of XLA, and count what is overlapped.

    python benchmarks/overlap.py --out benchmarks/results

The step is a base stage of 256 channels, fully sharded over 16 chips of v5e. Its compiled module is
scheduled. So it shows which collectives begin before and end after some computation, and which hold
the chip up. Nothing is run, and no seconds are measured but those of compiling.
"""

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import jax
import measure

from cv3jax import recipes
from cv3jax.aot.programs import Drawn, program
from cv3jax.aot.run import READABLE
from cv3jax.aot.topology import load
from cv3jax.training.parsing import parse_stage
from data_pipeline.io.files import write_json

TOPOLOGY, RECIPE = "v5e:4x4", "base_256:tiny"
FIELDS = (
    *("model.channels=256", "model.head_dim=64", "model.channel_mult=(1,)", "model.depth=(0,)"),
    *("model.res_blocks=1", "model.mid_depth=4", "batch.size=64"),
)
FUSED = "xla_tpu_enable_async_collective_fusion"
SETS: dict[str, dict[str, Any]] = {
    "none": {},
    "the latency-hiding scheduler off": {"xla_tpu_enable_latency_hiding_scheduler": False},
    "the latency-hiding scheduler on": {"xla_tpu_enable_latency_hiding_scheduler": True},
    "asynchronous fusion of all-gathers": {
        FUSED: True,
        f"{FUSED}_fuse_all_gather": True,
        f"{FUSED}_multiple_steps": True,
        "xla_tpu_overlap_compute_collective_tc": True,
        "xla_enable_async_all_gather": True,
    },
    "asynchronous fusion of reduce-scatters": {f"{FUSED}_fuse_reduce_scatter": True},
    "asynchronous reduce-scatters": {"xla_enable_async_reduce_scatter_fusion": True},
    "asynchronous fusion in loops": {f"{FUSED}_while_loops": True},
}
MATHS = (" convolution(", " dot(")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def overlap(text: str) -> dict[str, int]:
    """Return how many collectives of a scheduled module have computation meanwhile, by kind.

    "overlapped": some product or convolution is between their start and their end. "waited for":
    they have a start and an end, with nothing between. "synchronous": they have only one line.
    """
    bodies: dict[str, list[str]] = {}
    for line in text.splitlines():
        if begins := re.match(r"^(?:ENTRY )?%?([^ ]+) \(.*\{$", line):
            body = bodies.setdefault(begins[1], [])
        elif line.startswith("  "):
            body.append(line)
    heavy = {name for name, lines in bodies.items() if any(m in x for x in lines for m in MATHS)}
    fused = {call for lines in bodies.values() for x in lines for call in _called(x)}
    found = {"overlapped": 0, "waited for": 0, "synchronous": 0}
    for name, lines in bodies.items():
        if name in fused:
            continue
        done, begun = 0, {}
        for line in lines:
            its = re.match(r"\s+(?:ROOT )?%([\w.-]+) = .*? ([\w-]+)\(", line)
            if not its:
                continue
            what, calls = its[1] if its[1].startswith("async-coll") else its[2], _called(line)
            if re.match(r"(async-collective|all-|collective-).*-?start", what):
                begun[its[1]] = done
            elif re.match(r"(async-collective|all-|collective-).*-?done", what):
                at = begun.get(its[1].replace("-done", "-start"), done)
                found["overlapped" if done > at else "waited for"] += 1
            elif what in COLLECTIVES or any("all-reduce-scatter" in call for call in calls):
                found["synchronous"] += 1
            done += any(mark in line for mark in MATHS)
            # a piece of a collective that XLA has put into the fusion of a product
            done += any("async_collective_fusion" in word for word in (its[1], *calls))
            done += any(call in heavy for call in calls)
    return found


def _called(line: str) -> list[str]:
    return re.findall(r"calls=%([\w.-]+)", line) if " fusion(" in line else []


def main() -> None:
    """Run the benchmark from the command line and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="directory for overlap.md and overlap.json")
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    args = parser.parse_args()
    facts = measure.facts("libtpu")
    jax.config.update("jax_enable_compilation_cache", False)
    settings = parse_stage(recipes.load(RECIPE, [f"--config.{field}" for field in FIELDS]))
    work = program(settings, load(TOPOLOGY).devices, "train", Drawn(None, 0))
    lowered = work.jitted.trace(*work.args).lower()
    rows = {}
    for name in args.sets:
        began = time.monotonic()
        compiled = lowered.compile(compiler_options={**READABLE, **SETS[name]})
        memory = compiled.memory_analysis().temp_size_in_bytes / 1e6
        rows[name] = {**overlap(compiled.as_text()), "temporaries MB": round(memory, 1)}
        print(f"{name}: {rows[name]}, {time.monotonic() - began:.0f} s", flush=True)
    head = ("flags", *next(iter(rows.values())))
    table = measure.table(head, [(name, *row.values()) for name, row in rows.items()])
    print(table)
    if args.out:
        (args.out / "overlap.md").write_text(f"{json.dumps(facts, indent=2)}\n{table}\n")
        write_json(args.out / "overlap.json", {**facts, "sets": SETS, "collectives": rows})


if __name__ == "__main__":
    main()
