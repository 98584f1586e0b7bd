"""Ask `cv3jax compile` whether fine-tuning at full size fits one GPU.

    python benchmarks/finetune_memory.py --out benchmarks/results
    python benchmarks/finetune_memory.py --out /tmp/try --runs adapter --topologies a10g:1x1x1

"adapter" is the recipe lora_base: rank 16, the base frozen in bfloat16. "int8" is the same with the
base's matrices in int8. "relay" is the recipe lora_relay at 1024². "whole" trains all of the base,
by the recipe base_512 with adafactor and 32 images an update, and "moments" the same with AdamW and
its moments in bfloat16. The programs are those of a run: the update, the encoders, and the sampler
of four previews. A preview draws with the arrays that the run holds, so that the sampler's
parameters are counted once.

Each compilation runs the command of this checkout in a process of its own. finetune_memory.json is
written after each. A second call resumes with what is missing. Exits 1 if an update or the encoders
do not fit.
"""

import argparse
import json
import sys
from pathlib import Path

import compile_time
import jax
import measure

RUNS = {
    "adapter": ("lora_base",),
    "int8": ("lora_base", "--config.lora.base_dtype=int8"),
    "relay": ("lora_relay",),
    "whole": (
        "base_512",
        "--config.optim.kind=adafactor",
        "--config.batch.size=32",
        "--config.batch.per_device=8",
    ),
    "moments": (
        "base_512",
        "--config.optim.moments=bfloat16",
        "--config.batch.size=32",
        "--config.batch.per_device=8",
    ),
}
STEPS = ("train", "encode", "sample")
CELLS = (
    ("adapter", "rtx4090:1x1x1", STEPS),
    ("adapter", "a10g:1x1x1", ("train",)),  # the other programs are nearly those of the RTX 4090
    ("adapter", "h100:1x1x1", ("train",)),
    ("int8", "rtx4090:1x1x1", ("train", "encode")),
    ("int8", "a10g:1x1x1", ("train",)),
    ("int8", "h100:1x1x1", ("train",)),
    ("relay", "rtx4090:1x1x1", STEPS),
    ("relay", "a10g:1x1x1", ("train",)),
    ("relay", "h100:1x1x1", ("train",)),
    ("whole", "h100:1x1x1", ("train", "encode")),
    ("moments", "h100:1x1x1", ("train",)),
)
PREVIEWS = ("--config.batch.size=4", "--config.batch.per_device=4")
COLUMNS = (
    "run",
    "hardware",
    "step",
    "program GB",
    "beside it GB",
    "both GB",
    "usable GB",
    "fits",
    "TFLOP an image",
    "compile s",
)


def compiled(run: str, topology: str, step: str) -> dict:
    """Return the figures of `cv3jax compile`, or the last line of its error as `error`."""
    recipe, *fields = RUNS[run]
    fields += PREVIEWS if step == "sample" else ()
    return compile_time.compiled(recipe, step, topology, *fields)


def row(key: str, f: dict) -> tuple:
    """Return a line of the table."""
    named = key.split(" ")
    if "error" in f:
        return (*named, f["error"], *[""] * (len(COLUMNS) - len(named) - 1))
    sizes = ("peak_bytes_per_chip", "beside_bytes_per_chip", "total_bytes_per_chip", "usable_bytes")
    shown = [*(f"{f[name] / 1e9:.1f}" for name in sizes), "yes" if f["fits"] else "no"]
    if named[-1] == "sample":  # `compile` holds float32 encoders beside it, and a run does not
        shown[1:] = [""] * (len(shown) - 1)
    return (
        *named,
        *shown,
        f"{f['flops_per_image'] / 1e12:.2f}",
        f"{f['compile_seconds']:.0f}",
    )


def preview(results: dict, run: str, topology: str) -> float | None:
    """Return the bytes of a preview during training, or None where a program is missing.

    They are what the sampler takes besides its arguments, and what the run holds: the encoders, and
    the arguments of the update.
    """
    train, sample = (results.get(f"{run} {topology} {step}", {}) for step in ("train", "sample"))
    if "peak_bytes_per_chip" not in sample or "argument_bytes_per_chip" not in train:
        return None
    held = train["beside_bytes_per_chip"] + train["argument_bytes_per_chip"]
    return sample["peak_bytes_per_chip"] - sample["argument_bytes_per_chip"] + held


def report(stored: dict) -> str:
    """Return the table of all results, with what the newest one was made on."""
    made = ", ".join(f"{name} {value}" for name, value in stored["facts"].items())
    results = stored["results"]
    lines = [f"{made}\n", measure.table(COLUMNS, [row(*each) for each in results.items()]), ""]
    for run, topology in dict.fromkeys(tuple(key.split(" ")[:2]) for key in results):
        if (size := preview(results, run, topology)) is not None:
            lines.append(f"a preview during the run {run} on {topology}: {size / 1e9:.1f} GB")
    return "\n".join(lines)


def main() -> None:
    """Compile what the results lack, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--runs", nargs="+", choices=tuple(RUNS))
    parser.add_argument("--topologies", nargs="+", metavar="CHIP:SHAPE")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # nothing here runs on a device
    path = args.out / "finetune_memory.json"
    stored = json.loads(path.read_text()) if path.exists() else {"results": {}}
    results = stored["results"]
    cells = CELLS
    if args.runs or args.topologies:
        named = args.topologies or [CELLS[0][1]]
        cells = [(run, topology, STEPS) for run in args.runs or ["adapter"] for topology in named]
    for run, topology, steps in cells:
        for step in steps:
            key = f"{run} {topology} {step}"
            if "error" not in results.get(key, {"error": ""}):
                continue
            figures = compiled(run, topology, step)
            facts = stored["facts"] = measure.facts()
            made = {"date": facts["date"], "revision": facts["revision"]}
            results[key] = {**figures, **made}
            measure.write_json(path, stored)
    written = report(stored)
    (args.out / "finetune_memory.md").write_text(f"{written}\n")
    print(written)
    bad = [key for key, f in results.items() if not f.get("fits") and not key.endswith("sample")]
    if bad:
        sys.exit(f"failed or does not fit: {', '.join(bad)}")


if __name__ == "__main__":
    main()
