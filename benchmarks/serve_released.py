"""Measure the throughput of `cv3jax serve` with a cascade of the released sizes, at saturation.

    python benchmarks/serve_released.py --json serve_released.json
    python benchmarks/serve_released.py --size tiny --batch 3 --num 12

The server is the real one, on loopback, in a process of its own: HTTP, journal, queue, engine, PNG.
Only its parameters are not read from files: they are drawn at random (20 GB would take a minute to
write and to read). The stages take 4 + 1 steps and are guidance-conditioned, 512² → 1024², in
bfloat16. An odd --batch has a single shape of units; an even one has its halves too, which take as
long to compile again. Four batches of requests are always under way. The tokenizer is that of the
packaged scenes, so prompts have other tokens than T5's, and as many.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import measure
from cascade import distilled, released, tiny
from random_weights import cascade_params

from cv3jax import cli
from cv3jax.cascade import pipeline
from cv3jax.cascade.pipeline import Cascade
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.commands import serve
from cv3jax.serving.load import run as load_run
from cv3jax.serving.load.arrivals import Kind
from cv3jax.serving.load.child import serving
from data_pipeline.io.progress import say
from data_pipeline.loading.tokenizer import load_tokenizer

SERVER = "--as-server"  # this script's first argument in the server's process
FEW = {"base": 4, "relay": 1}
BATCHES = 4  # of requests that are under way
SIZES = ("full", "tiny")
VOCAB = 512  # of the packaged tokenizer
COLUMNS = ("", "batch", "pictures/s", "P50 s", "P95 s", "rows in use", "GB", "ready after s")


def describe(size: str) -> CascadeDescription:
    """Return a distilled cascade, of the released sizes in bfloat16 or a tiny one in float32."""
    made = tiny() if size == "tiny" else released().computing_in("bfloat16")
    made = distilled(made, FEW)
    # any matrix of previews, which nobody asks for: fitting one would compile another encoder
    matrix = [[0.1] * 3 for _ in range(made.stages["base"].model["out_channels"] + 1)]
    t5 = made.t5
    if size == "tiny":
        t5 = dataclasses.replace(t5, model={**t5.model, "vocab": VOCAB})
    return dataclasses.replace(made, vae=dataclasses.replace(made.vae, preview=matrix), t5=t5)


def write_description(folder: Path, size: str) -> None:
    """Write a cascade into `folder` that has a description and a tokenizer, and no parameters."""
    shutil.copytree(cascades.PACKAGED / "scenes/t5/tokenizer", folder / "t5/tokenizer")
    cascades.write_cascade(folder, describe(size))


def load_random(path: str | Path, *, mesh: Any, attention: str, dtype: str | None) -> Cascade:
    """Return the cascade that `path` describes with random parameters, as `pipeline.load` does."""
    directory, description = cascades.read_cascade(path)
    description = description if dtype is None else description.computing_in(dtype)
    tokenize = load_tokenizer(
        cascades.place_of(directory, "t5/tokenizer")[0], description.t5.length
    )
    return Cascade(description, cascade_params(description), tokenize, mesh, attention)


def measured(size: str, batch: int, num: int) -> dict[str, Any]:
    """Return the figures of a server at saturation, and of its engine."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_description(place / "released", size)
        argv = [sys.executable, __file__, SERVER, "--port", "0", "--access-log", "none"]
        argv += ["--checkpoint", str(place / "released"), "--workdir", str(place / "serve")]
        argv += ["--batch", str(batch), "--max-wait", "3600", "--max-queue", "4096"]
        argv += ["--json", str(place / "served.json")]
        clients = BATCHES * batch
        load = load_run.Load([Kind("default")], None, max(num, 3 * clients), clients, clients)
        with serving(argv, tell=say) as server:
            found = load_run.measure(server.address, load)
            with urllib.request.urlopen(f"{server.address}/v1/capabilities", timeout=30) as answer:
                memory = json.load(answer)["engine"]["memory"]
        served = json.loads((place / "served.json").read_text())
    return {
        **found,
        "ready_seconds": served["seconds"]["ready"],
        "memory": memory,
        "memory_bytes": sum(memory.values()),
    }


def cells(size: str, found: dict[str, Any]) -> tuple:
    """Return the line of the table."""
    latency = found["latency"]["default"]
    return (
        f"{size}, {FEW['base']} + {FEW['relay']}",
        found["batch"],
        f"{found['pictures_per_second']:.3g}",
        f"{latency['p50']:.3f}",
        f"{latency['p95']:.3f}",
        f"{found['engine']['occupancy']:.0%}",
        f"{found['memory_bytes'] / 1e9:.2f}",
        f"{found['ready_seconds']:.0f}",
    )


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    if sys.argv[1:2] == [SERVER]:
        pipeline.load = load_random
        cli.run_command(serve.main, sys.argv[2:])
        return
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--size", choices=SIZES, default="full", help="of the cascade")
    made.add_argument("--batch", type=int, default=7, help="rows of a unit (default: 7)")
    made.add_argument("--num", type=int, default=84, help="requests (default: 84)")
    made.add_argument("--json", type=Path, metavar="FILE")
    args = made.parse_args()
    if args.batch < 1 or args.num < 1:
        made.error("--batch and --num must be at least 1")
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the device is the server's
    facts = measure.facts()
    del os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]
    print(json.dumps(facts, indent=2), flush=True)
    found = measured(args.size, args.batch, args.num)
    measure.write_json(args.json, {**facts, "size": args.size, **found})
    print(measure.table(COLUMNS, [cells(args.size, found)]))
    if found["errors"]:
        sys.exit(f"{sum(found['errors'].values())} requests failed: {next(iter(found['errors']))}")


if __name__ == "__main__":
    main()
