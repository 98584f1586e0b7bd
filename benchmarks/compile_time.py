"""Measure the time and memory that `cv3jax compile` takes for the paper's stages.

    python benchmarks/compile_time.py --out benchmarks/results
    python benchmarks/compile_time.py --out /tmp/try --recipes scenes_base:tiny --topologies v5e:2x4

The topologies are the TPU pods and GPUs that the stages are meant for. Each compilation runs the
command of this checkout in a process of its own, one at a time. compile_time.json is written after
each, and compile_time.md at the end. A second call resumes with what is missing. Results that are
kept may come from older code: each has its date and git revision, and the table names them. Exits 1
if a step does not fit, or if a train step takes more than ten minutes or 12 GB to compile.
"""

import argparse
import collections
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import measure

ROOT = Path(__file__).parent.parent
RECIPES = ("base_256", "base_512", "base_aesthetic", "sr_1024", "relay_1024")
TPUS = ("v5e:16x16", "v5p:8x8x4")
ON_GPUS, GPUS = ("base_512", "relay_1024"), ("h100:1x8x1",)
STEPS = ("train", "encode")
MOST_SECONDS, MOST_BYTES = 600, 12e9  # of a train step
COLUMNS = (
    "recipe",
    "step",
    "hardware",
    "fits",
    "peak GB a chip",
    "held beside it GB",
    "arguments GB",
    "temporaries GB",
    "PFLOP a step",
    "on the wire GB",
    "× FSDP's minimum",
    "bound on MFU",
    "compile s",
    "host GB",
)


def cells(
    recipes: list[str] | None, topologies: list[str] | None, steps: list[str]
) -> list[tuple[str, str, str]]:
    """Return (recipe, step, topology) of every compilation.

    Without flags these are the paper's stages on TPU pods, and two of them on GPUs.
    """
    if recipes or topologies:
        pairs = itertools.product(recipes or RECIPES, topologies or TPUS)
    else:
        pairs = itertools.chain(itertools.product(RECIPES, TPUS), itertools.product(ON_GPUS, GPUS))
    return [(recipe, step, topology) for recipe, topology in pairs for step in steps]


def compiled(recipe: str, step: str, topology: str, *more: str) -> dict:
    """Return the figures of `cv3jax compile`, or the last line of its error as `error`.

    more: further flags of the command.
    """
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        argv = [
            "compile",
            f"--config={recipe}",
            "--topology",
            topology,
            "--step",
            step,
            "--json",
            str(figures),
            *more,
        ]
        done = subprocess.run(
            [sys.executable, "-m", "cv3jax", *argv],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        print(done.stdout, flush=True)
        if not figures.exists():
            return {
                "error": (
                    done.stderr.strip().splitlines()[-1]
                    if done.stderr.strip()
                    else f"exit code {done.returncode}"
                )
            }
        return json.loads(figures.read_text())


def beside(key: str, results: dict[str, dict]) -> float | None:
    """Return the bytes per chip that a run holds in addition to the program.

    Older results lack this figure. Their value is the size of the other program's arguments, which
    is nearly the same. Returns None if that program was not compiled either.
    """
    if (size := results[key].get("beside_bytes_per_chip")) is not None:
        return size
    recipe, step, topology = key.split(" ")
    other = " ".join((recipe, {"train": "encode", "encode": "train"}.get(step, step), topology))
    return results.get(other, {}).get("argument_bytes_per_chip") if other != key else None


def row(key: str, results: dict[str, dict]) -> tuple:
    """Return a line of the table."""
    f, stays = results[key], beside(key, results)
    recipe, step, topology = key.split(" ")
    if "error" in f:
        return (recipe, step, topology, f["error"], *[""] * (len(COLUMNS) - 4))

    def of(value, form: str) -> str:
        return "" if value is None else format(value, form)

    wire = (
        None
        if f["collectives"] is None
        else sum(kind["wire_bytes"] for kind in f["collectives"].values()) / 1e9
    )
    peak, arguments, temporaries = (
        f[f"{name}_bytes_per_chip"] / 1e9 for name in ("peak", "argument", "temporary")
    )
    return (
        recipe,
        step,
        topology,
        "yes" if f["fits"] else "no",
        f"{peak:.2f}",
        of(stays and stays / 1e9, ".2f"),
        f"{arguments:.2f}",
        f"{temporaries:.2f}",
        f"{f['flops_per_step'] / 1e15:.1f}",
        of(wire, ".1f"),
        of(f["fsdp"] and f["fsdp"]["ratio"], ".2f"),
        of(f["mfu_bound"], ".0%"),
        f"{f['compile_seconds']:.0f}",
        f"{f['host_peak_bytes'] / 1e9:.1f}",
    )


def head(facts: dict, results: dict[str, dict]) -> str:
    """Return when and of which revision the results were made, and the newest one's versions."""
    made = collections.Counter(
        (f.get("revision") or "unrecorded code", f.get("date", "unknown")[:10])
        for f in results.values()
    )
    where = ", ".join(
        f"{name} {value}" for name, value in facts.items() if name not in ("date", "load")
    )
    rows = "; ".join(f"{revision}, {day} ({n})" for (revision, day), n in made.items())
    return f"results by revision and day: {rows}. The newest was made with {where}"


def table(results: dict[str, dict]) -> str:
    """Return the results as a Markdown table, a row each."""
    rows = [
        COLUMNS,
        ["---"] * len(COLUMNS),
        *(row(key, results) for key in results),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in rows)


def over(results: dict[str, dict]) -> list[str]:
    """Return the keys of results that failed, do not fit or took more than allowed."""
    bad = [key for key, f in results.items() if "error" in f or not f["fits"]]
    trains = {key: f for key, f in results.items() if "error" not in f and f["step"] == "train"}
    return bad + [
        key
        for key, f in trains.items()
        if f["compile_seconds"] > MOST_SECONDS or f["host_peak_bytes"] > MOST_BYTES
    ]


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="where compile_time.json and compile_time.md go",
    )
    parser.add_argument("--recipes", nargs="+", metavar="NAME")
    parser.add_argument("--topologies", nargs="+", metavar="CHIP:SHAPE")
    parser.add_argument(
        "--steps", nargs="+", choices=("train", "encode", "sample"), default=list(STEPS)
    )
    parser.add_argument(
        "--again", action="store_true", help="measure also what the results have already"
    )
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # nothing here runs on a device
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "compile_time.json"
    stored = json.loads(path.read_text()) if path.exists() else {"environment": {}, "results": {}}
    facts, known = stored["environment"], stored["results"]
    results: dict[str, dict] = {}
    for cell in cells(args.recipes, args.topologies, args.steps):
        key = " ".join(cell)
        if args.again or "error" in known.get(key, {"error": ""}):
            facts = measure.facts()
            made = {"date": facts["date"], "revision": measure.revision(ROOT)}
            known[key] = {**compiled(*cell), **made}
            measure.write_json(path, {"environment": facts, "results": known})
        results[key] = known[key]
    written = f"{head(facts, results)}\n\n{table(results)}"
    (args.out / "compile_time.md").write_text(f"{written}\n")
    print(written)
    if bad := over(results):
        sys.exit(
            f"failed, does not fit, or over {MOST_SECONDS} s or {MOST_BYTES / 1e9:.0f} GB:"
            f" {', '.join(bad)}"
        )


if __name__ == "__main__":
    main()
