"""Ask `cv3jax compile` whether a picture of 4096² fits one chip, as a whole and in tiles.

    python benchmarks/large_pictures.py --out benchmarks/results
    python benchmarks/large_pictures.py --out /tmp/try --topologies v5p:2x2x1

The sampler and the decoder of one picture per chip are compiled, each as a whole and in tiles. The
chip holds the cascade's other parts beside the program. "recipe" stands for those that the recipe
names: the released autoencoder and text encoder, in float32. "float32" and "bfloat16" stand for a
whole cascade of the released sizes that computes in that type; it has a base too.

Each compilation runs the command of this checkout in a process of its own. large_pictures.json is
written after each. A second call resumes with what is missing. On a TPU the sampler in tiles takes
over an hour. Exits 1 if a program in tiles does not fit.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
from pathlib import Path

import compile_time
import jax
import measure

from cv3jax import recipes
from cv3jax.aot.programs import RELEASED
from cv3jax.checkpoints.cascades import write_cascade
from cv3jax.distillation.parsing import parse_recipe
from cv3jax.training.frozen import describe

RECIPE, BASE = "relay_1024", "base_512"
GPU, TOPOLOGIES = "h100:1x1x1", ("h100:1x1x1", "h200:1x1x1", "v5p:2x2x1")
HELD = ("recipe", "float32", "bfloat16")
STEPS = ("sample", "decode")
COLUMNS = (
    "hardware",
    "held parts",
    "step",
    "tile",
    "program GB",
    "held beside it GB",
    "both GB",
    "usable GB",
    "fits",
    "TFLOP",
    "compile s",
)


def cells(
    topologies: list[str] | None, held: list[str] | None, steps: list[str]
) -> list[tuple[str, str, str]]:
    """Return (topology, held parts, step) of every compilation.

    Without flags these are all topologies with the recipe's own parts, and one with a cascade.
    """
    if topologies or held:
        pairs = itertools.product(topologies or TOPOLOGIES, held or HELD)
    else:
        pairs = ((each, "recipe") for each in TOPOLOGIES)
        pairs = itertools.chain(pairs, ((GPU, kind) for kind in HELD[1:]))
    return [(*pair, step) for pair in pairs for step in steps]


def write_released(folder: str, dtype: str) -> None:
    """Write the description of a cascade of the released sizes that computes in `dtype`."""
    base = describe(parse_recipe(recipes.load(BASE, [])), RELEASED)
    # a file says the width of the text's features; what else it leaves out has the released size
    text = dataclasses.replace(RELEASED.t5, model={"channels": base.text_width})
    parts = dataclasses.replace(RELEASED, t5=text, stages={"base": base})
    write_cascade(folder, parts.computing_in(dtype))


def compiled(topology: str, held: str, step: str, size: int, tile: int) -> dict:
    """Return the figures of `cv3jax compile`, or the last line of its error as `error`.

    held: "recipe" for the recipe's own parts, or the type of a whole cascade. tile: 0 for none.
    """
    with tempfile.TemporaryDirectory() as folder:
        # each chip has a picture of its own, and all parameters
        chips = 4 if topology.startswith("v5p") else 1
        argv = [f"--config.mesh.data={chips}", "--config.mesh.fsdp=1", "--size", str(size)]
        if held != "recipe":
            write_released(folder, held)
            argv.append(f"--config.cascade={folder}")
        if tile:
            argv += ["--tile", str(tile)]
        return compile_time.compiled(RECIPE, step, topology, *argv)


def row(key: str, f: dict) -> tuple:
    """Return a line of the table."""
    named = key.split(" ")
    if "error" in f:
        return (*named, f["error"], *[""] * (len(COLUMNS) - len(named) - 1))
    sizes = ("peak_bytes_per_chip", "beside_bytes_per_chip", "total_bytes_per_chip", "usable_bytes")
    return (
        *named,
        *(f"{f[name] / 1e9:.1f}" for name in sizes),
        "yes" if f["fits"] else "no",
        f"{f['flops_per_image'] / 1e12:.0f}",
        f"{f['compile_seconds']:.0f}",
    )


def report(stored: dict) -> str:
    """Return the table of all results, with what the newest one was made on."""
    made = ", ".join(f"{name} {value}" for name, value in stored["facts"].items())
    return f"{made}\n\n{measure.table(COLUMNS, [row(*each) for each in stored['results'].items()])}"


def main() -> None:
    """Compile what the results lack, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--topologies", nargs="+", metavar="CHIP:SHAPE")
    parser.add_argument("--held", nargs="+", choices=HELD)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--size", type=int, default=4096, help="of the pictures, in pixels")
    parser.add_argument("--tile", type=int, default=1024, help="in pixels")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # nothing here runs on a device
    path = args.out / "large_pictures.json"
    stored = json.loads(path.read_text()) if path.exists() else {"results": {}}
    results = stored["results"]
    for cell in cells(args.topologies, args.held, args.steps):
        for tile in (0, args.tile):
            key = f"{' '.join(cell)} {tile or 'whole'}"
            if "error" not in results.get(key, {"error": ""}):
                continue
            figures = compiled(*cell, args.size, tile)
            facts = stored["facts"] = measure.facts()
            made = {"date": facts["date"], "revision": facts["revision"]}
            results[key] = {**figures, **made}
            measure.write_json(path, stored)
    written = report(stored)
    (args.out / "large_pictures.md").write_text(f"{written}\n")
    print(written)
    bad = [key for key, f in results.items() if not f.get("fits") and not key.endswith("whole")]
    if bad:
        sys.exit(f"in tiles, but failed or does not fit: {', '.join(bad)}")


if __name__ == "__main__":
    main()
