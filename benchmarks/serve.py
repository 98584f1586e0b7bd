"""Continuous batching beside one request at a time and beside static batching, in one run.

    python benchmarks/serve.py --json benchmarks/results/serve.json

Servers run on loopback in processes of their own, and those that are compared take turns.

- Saturation: four batches of requests are always under way at a server of the packaged `scenes`
  (4 + 1 steps), at one that draws one request at a time (`--batch 1`), and as many pictures are
  drawn by what `cv3jax sample --prompts` runs at the same batch.
- Half load: requests arrive at random at half of the rate at saturation. The same requests at the
  same times go to static batches: up to a batch of them is collected, and drawn to its end. A lone
  request is one that comes when the one before is answered.
- Mixed steps: a quarter of the requests asks for 20 + 10 steps, the others for 4 + 1, of the
  packaged teacher, at half of the rate of that mixture at saturation. The short ones then come
  alone, at the same times.

A bar that is missed is printed, and the script exits with 1.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
from static_batching import StaticBatches, drawing, sample_prompts

from cv3jax.cascade.pipeline import Cascade, load
from cv3jax.checkpoints import cascades
from cv3jax.distributed.backend import keep_compiled, prefer_cpu, tune_cpu
from cv3jax.sampling.jobs import Job
from cv3jax.serving.load import run as load_run
from cv3jax.serving.load.arrivals import Arrival, Kind, Outcome, arrivals, latencies, parse_mix
from cv3jax.serving.load.child import command, serving
from cv3jax.serving.load.client import client, closed_loop, draw_of, open_loop
from data_pipeline.io.progress import bar, say

BATCHES = 4  # of requests that are under way at saturation
SPEED = "pictures_per_second"
SHORT, LONG = "4+1", "20+10"
MIX = f"{SHORT}:3,{LONG}:1"
AS_DESCRIBED = [Kind("default")]
SAMPLE, SINGLE = 0.9, 1.5  # least throughput over that of sample, and of one request at a time
LONE, MIXED = 2.0, 1.5  # most P95 over a lone request's latency, and over that of short ones alone


class Servers:
    """Servers by name, and the cascades that are drawn without a server."""

    def __init__(self, stack: contextlib.ExitStack, batch: int, delay: float):
        """Start the servers one after the other, and compile the static batches' programs.

        delay: the most seconds for which a static batch waits to be full.
        """
        self.batch, self._delay = batch, delay
        self.address: dict[str, str] = {}
        self.cascades: dict[str, Cascade] = {}
        for name, checkpoint, rows in (
            ("scenes", "scenes", batch),
            ("single", "scenes", 1),
            ("scenes_teacher", "scenes_teacher", batch),
        ):
            say(f"starting a server of {checkpoint} with --batch {rows}")
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            flags = ["--checkpoint", checkpoint, "--batch", str(rows), "--workdir", f"{folder}/w"]
            argv = command(*flags, "--max-wait", "3600", "--max-queue", "4096")
            self.address[name] = stack.enter_context(serving(argv, tell=say)).address
        jobs = [Job("a large red circle", 0, "")]
        for name, kinds in (("scenes", AS_DESCRIBED), ("scenes_teacher", parse_mix(MIX))):
            self.cascades[name] = load(cascades.PACKAGED / name)
            for kind in kinds:
                drawing(self.cascades[name], jobs, batch, kind.steps)

    def full(self, name: str, kinds: Sequence[Kind], num: int, seed: int) -> dict[str, Any]:
        """Return the figures of a server at saturation."""
        clients = BATCHES * (1 if name == "single" else self.batch)
        asked = load_run.Load(kinds, None, max(num, 3 * clients), clients, clients, seed)
        with bar(asked.num + clients, f"{name} at saturation", "request") as shown:
            return load_run.measure(self.address[name], asked, step=shown.update)

    def drawn(self, how: str, name: str, asked: Sequence[Arrival]) -> list[Outcome]:
        """Return the outcomes of requests.

        how: "continuous" sends them to a server at their times, "lone" one after the other, and
        "static" draws them in static batches. Raises RuntimeError if one of them fails.
        """
        with bar(len(asked), f"{name}, {how}", "request") as shown:
            outcomes = asyncio.run(self._drawn(how, name, asked, shown.update))
        if errors := [one.error for one in outcomes if one.error]:
            raise RuntimeError(f"{len(errors)} of {len(outcomes)} requests failed: {errors[0]}")
        return outcomes

    async def _drawn(self, how: str, name: str, asked: Sequence[Arrival], step) -> list[Outcome]:
        if how == "static":
            with contextlib.closing(
                StaticBatches(self.cascades[name], self.batch, self._delay)
            ) as batches:
                return await open_loop(batches.draw, asked, step)
        async with client(self.address[name]) as session:
            if how == "lone":
                return await closed_loop(draw_of(session), asked, 1, step)
            return await open_loop(draw_of(session), asked, step)


def in_turns(names: Sequence[str], number: int) -> list[str]:
    """Return the names in the order of a round; every second round is in reverse."""
    return list(names)[:: 1 if number % 2 == 0 else -1]


def saturation(servers: Servers, num: int, rounds: int) -> dict[str, Any]:
    """Return pictures a second of the three ways to draw, in turns."""
    speeds: dict[str, list[float]] = {"continuous": [], "single": [], "sample": []}
    engine = []
    for number in range(rounds):
        for name in in_turns([*speeds], number):
            if name == "sample":
                asked = arrivals(AS_DESCRIBED, None, num, number * num)
                speed = num / sample_prompts(servers.cascades["scenes"], asked, servers.batch)
            elif name == "single":  # the slowest, with the shortest queue to fill
                speed = servers.full(name, AS_DESCRIBED, num // 3, number * num)[SPEED]
            else:
                found = servers.full("scenes", AS_DESCRIBED, num, number * num)
                speed = found[SPEED]
                engine.append(found["engine"])
            speeds[name].append(speed)
        say(", ".join(f"{name} {values[-1]:.2f} pictures/s" for name, values in speeds.items()))
    return {
        SPEED: speeds,
        "spread": {name: measure.spread(values) for name, values in speeds.items()},
        "over_sample": measure.ratios(speeds["continuous"], speeds["sample"]),
        "over_single": measure.ratios(speeds["continuous"], speeds["single"]),
        "engine": engine,
    }


def half_load(servers: Servers, rate: float, num: int, rounds: int) -> dict[str, Any]:
    """Return latencies at a rate, beside a lone request's and those of static batches."""
    found: dict[str, list[Outcome]] = {"lone": [], "continuous": [], "static": []}
    for number in range(rounds):
        asked = arrivals(AS_DESCRIBED, rate, num // rounds, 1000 + number)
        for how in in_turns([*found], number):
            some = asked[: max(len(asked) // 5, 2)] if how == "lone" else asked
            found[how] += servers.drawn(how, "scenes", some)
    shown = {how: latencies(outcomes)["default"] for how, outcomes in found.items()}
    return {
        "rate": rate,
        "latency": shown,
        "over_lone": {how: shown[how]["p95"] / shown["lone"]["p50"] for how in shown},
    }


def mixed(servers: Servers, num: int, rounds: int) -> dict[str, Any]:
    """Return latencies of short requests with long ones beside them, and alone."""
    name, kinds = "scenes_teacher", parse_mix(MIX)
    full = servers.full(name, kinds, num // 2, 2000)
    # with its end: while requests come, short ones go first
    rate = full["whole_per_second"] / 2
    found: dict[str, list[Outcome]] = {"alone": [], "continuous": [], "static": []}
    for number in range(rounds):
        asked = arrivals(kinds, rate, num // rounds, 3000 + number)
        short = [one for one in asked if one.kind.name == SHORT]
        for how in in_turns([*found], number):
            found[how] += (
                servers.drawn("continuous", name, short)
                if how == "alone"
                else servers.drawn(how, name, asked)
            )
    shown = {how: latencies(outcomes) for how, outcomes in found.items()}
    alone = shown["alone"][SHORT]["p95"]
    return {
        "mix": MIX,
        "saturation": full["whole_per_second"],
        "rate": rate,
        "latency": shown,
        "over_alone": {how: shown[how][SHORT]["p95"] / alone for how in ("continuous", "static")},
    }


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Return all figures."""
    with contextlib.ExitStack() as stack:
        servers = Servers(stack, args.batch, args.delay)
        full = saturation(servers, args.num, args.rounds)
        rate = statistics.median(full[SPEED]["continuous"]) / 2
        return {
            "batch": args.batch,
            "num": args.num,
            "rounds": args.rounds,
            "delay": args.delay,
            "saturation": full,
            "half": half_load(servers, rate, args.num, args.rounds),
            "mixed": mixed(servers, args.mixed, args.rounds),
        }


def missed(found: dict[str, Any]) -> list[str]:
    """Return a line for each figure that misses its bar."""
    full, lone = found["saturation"], found["half"]["over_lone"]["continuous"]
    alone = found["mixed"]["over_alone"]["continuous"]
    lines = [
        f"saturation: {full[name][0]:.2f} of the pictures a second of {what} (bar: {least})"
        for name, what, least in (
            ("over_sample", "sample --prompts", SAMPLE),
            ("over_single", "one request at a time", SINGLE),
        )
        if full[name][0] < least
    ]
    if lone > LONE:
        lines.append(f"half load: P95 is {lone:.2f} of a lone request's latency (bar: {LONE})")
    if alone > MIXED:
        lines.append(f"mixed steps: P95 of short ones is {alone:.2f} of alone (bar: {MIXED})")
    return lines


def report(found: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    full, half, mix = found["saturation"], found["half"], found["mixed"]
    speeds = [
        (label, full["spread"][name], ratio)
        for label, name, ratio in (
            ("continuous batches", "continuous", ""),
            ("sample --prompts", "sample", full["over_sample"]),
            ("one request at a time", "single", full["over_single"]),
        )
    ]
    rows = [
        (
            label,
            one["count"],
            *(f"{one[key]:.3f}" for key in ("mean", "p50", "p95", "p99")),
        )
        for label, one in (
            ("a lone request", half["latency"]["lone"]),
            ("half load, continuous", half["latency"]["continuous"]),
            ("half load, static batches", half["latency"]["static"]),
            ("4 + 1 alone, continuous", mix["latency"]["alone"][SHORT]),
            *(
                (f"{kind.replace('+', ' + ')} mixed, {label}", mix["latency"][how][kind])
                for kind in (SHORT, LONG)
                for how, label in (("continuous", "continuous"), ("static", "static batches"))
            ),
        )
    ]
    return "\n\n".join(
        [
            measure.table(("at saturation", "pictures a second", "continuous over it"), speeds),
            measure.table(("latency, s", "requests", "mean", "P50", "P95", "P99"), rows),
            f"Half load is {half['rate']:.2f} requests a second; mixed steps come at"
            f" {mix['rate']:.2f}. P95 over a lone request: {half['over_lone']['continuous']:.2f},"
            f" static {half['over_lone']['static']:.2f}. P95 of short ones over alone:"
            f" {mix['over_alone']['continuous']:.2f}, static {mix['over_alone']['static']:.2f}.",
        ]
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=8, help="rows of a batch")
    parser.add_argument("--num", type=int, default=192, help="requests of a measurement")
    parser.add_argument("--mixed", type=int, default=120, help="requests of mixed steps")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--delay", type=float, default=0.05, help="seconds for which a static batch waits"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if min(args.batch, args.rounds) < 1:
        parser.error("--batch and --rounds must be at least 1")
    if min(args.num, args.mixed) < 8 * args.rounds:
        parser.error("--num and --mixed must be at least 8 × --rounds")
    tune_cpu()
    prefer_cpu()
    keep_compiled()
    before = measure.facts()
    found = {"facts": before, **measured(args)}
    found["missed"] = missed(found)
    measure.write_json(args.json, found)
    print(report(found) + "\n\n" + ", ".join(f"{key} {value}" for key, value in before.items()))
    for line in found["missed"]:
        print(f"missed: {line}", file=sys.stderr)
    sys.exit(bool(found["missed"]))


if __name__ == "__main__":
    main()
