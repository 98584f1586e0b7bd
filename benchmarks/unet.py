"""Compare our UNet with diffusers' UNet2DConditionModel in PyTorch, with the same weights.

    python benchmarks/unet.py --json benchmarks/results/unet.json [--before CHECKOUT]

Seconds of a forward pass and of a train step are measured. Each side has a process of its own, and
they take turns. On a CPU both compute in float32. On a GPU both compute in bfloat16, and PyTorch
runs a second time under torch.compile. In a forward pass the weights have that precision. A train
step keeps them in float32; it consists of the mean squared error, its gradient, clipping by the
global norm, AdamW and an EMA. Ours is `make_train_step` without rematerialisation; PyTorch's uses
its fused AdamW. On a CPU, ours has its memory in huge pages, as `cv3jax train` has, and PyTorch
runs a second time with them too. With `--before`, ours of another checkout is one more rival.
Before timing, both sides must agree in their outputs and in their losses after one step. MFU is
given for ours if the chip's peak is known. Exits 1 if a median ratio is above 1.0 (on a GPU: 0.8,
against torch.compile), or if the full-size train step has less than 60 % MFU on a GPU. Needs
PyTorch (`make setup-torch`) and diffusers.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import jax
import measure
import numpy as np
from measure import ROOT
from unet_sides import OURS, SIZES, ours, theirs

from cv3jax.distributed import huge_pages
from cv3jax.distributed.chips import chip_of

DEFAULT = {
    "cpu": {"forward": "medium", "train": "small"},
    "gpu": {"forward": "full", "train": "full"},
}
HUGE, BEFORE = "torch, huge pages", "before"
CACHE = "JAX_COMPILATION_CACHE_DIR"  # so that ours compiles once for all rivals
MOST = {"cpu": 1.0, "gpu": 0.8}
LEAST_MFU = 0.6  # of the full size's train step, on a GPU
CLOSE = {"float32": 1e-3, "bfloat16": 5e-2}  # of the largest output


def compare(
    what: str, size: str, dtype: str, rounds: int, rivals: list[str], before: Path | None
) -> dict:
    """Return the figures of one row. before: the checkout of the rival of that name.

    Raises:
        RuntimeError: if the two sides do not compute the same.
    """
    with tempfile.TemporaryDirectory() as folder:

        def command(side: str) -> list[str]:
            at = before if side == BEFORE else ROOT
            own = ["env", f"PYTHONPATH={at}", f"{CACHE}={os.environ.get(CACHE, folder)}"]
            own += [f"{huge_pages.WISH}={huge_pages.VALUE}"] if side == HUGE else []
            asked = {"what": what, "size": size, "dtype": dtype, "folder": str(place(side))}
            return [
                *(*own, sys.executable, str(at / "benchmarks/unet.py")),
                *("--worker", OURS if side == BEFORE else side),
                *(word for name, value in asked.items() for word in (f"--{name}", value)),
            ]

        def place(side: str) -> Path:
            where = Path(folder) / (BEFORE if side == BEFORE else "")
            where.mkdir(exist_ok=True)
            return where

        took: dict[str, list[list[float]]] = {}
        ready, errors = {}, {}
        for rival in rivals:  # one pair at a time: three would not fit
            with measure.workers({OURS: command(OURS), rival: command(rival)}) as pair:
                theirs = OURS if rival == BEFORE else "theirs"
                a, b = np.load(place(OURS) / f"{OURS}.npy"), np.load(place(rival) / f"{theirs}.npy")
                errors[rival] = float(np.abs(a - b).max() / np.abs(a).max())
                if not errors[rival] <= CLOSE[dtype]:
                    raise RuntimeError(
                        f"{what} {size}: {OURS} and {rival} differ by {errors[rival]:.1e} of the"
                        " largest value"
                    )
                ready = {name: worker.ready for name, worker in pair.items()} | ready
                for worker in pair.values():
                    worker()  # warm
                took[rival] = measure.turns(
                    pair,
                    rounds,
                    lambda line: print(f"{what} {size}: {line}", file=sys.stderr, flush=True),
                )
    return {
        "what": what,
        "size": size,
        **SIZES[size],
        "dtype": dtype,
        "rounds": rounds,
        "parameters": ready[OURS]["parameters"],
        "flops": ready[OURS]["flops"],
        "seconds": took,
        "first_call_seconds": {name: value["first"] for name, value in ready.items()},
        "difference": errors,
        "ratio": {
            rival: measure.ratios(values[OURS], values[rival]) for rival, values in took.items()
        },
    }


def with_mfu(row: dict, device_kind: str) -> dict:
    """Return the row with our MFU in all its turns, if the chip's peak is known."""
    chip = chip_of(device_kind)
    turns = [seconds for took in row["seconds"].values() for seconds in took[OURS]]
    return (
        {**row, "mfu": measure.spread([row["flops"] / seconds / chip.flops for seconds in turns])}
        if chip
        else row
    )


def missed(figures: list[dict], kind: str, rival: str) -> list[str]:
    """Return a line for each bar that was missed."""
    slower = [
        f"{row['what']} {row['ratio'][rival]} of {rival}'s time, above {MOST[kind]}"
        for row in figures
        if not row["ratio"][rival].median <= MOST[kind]
    ]
    held = [
        row
        for row in figures
        if kind == "gpu" and (row["what"], row["size"]) == ("train", "full") and "mfu" in row
    ]
    return slower + [
        f"train {row['mfu']} of the peak, under {LEAST_MFU}"
        for row in held
        if not row["mfu"].median >= LEAST_MFU
    ]


def others(path: Path | None, figures: list[dict]) -> list[dict]:
    """Return the rows of a result file whose kind was not measured now."""
    stored = json.loads(path.read_text())["rows"] if path and path.is_file() else []
    measured = {row["what"] for row in figures}
    return [row for row in stored if row["what"] not in measured]


def rows(figures: list[dict]) -> list[tuple]:
    """Return the rows of the table."""
    return [
        (
            row["what"],
            f"{row['parameters'] / 1e9:.2f} B",
            f"{row['batch']} × {row['side']}²",
            row["dtype"],
            rival,
            measure.spread(took[OURS]),
            measure.spread(took[rival]),
            row["ratio"][rival],
            f"{row['mfu'].median:.0%}" if "mfu" in row else "",
        )
        for row in figures
        for rival, took in row["seconds"].items()
    ]


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--what", choices=("forward", "train"), help="one of them alone; FILE keeps the other"
    )
    parser.add_argument(
        "--size",
        choices=SIZES,
        help="of the model (default on a CPU: medium forward, small train; on a GPU: full)",
    )
    parser.add_argument("--rounds", type=int, default=9, help="turns of each pair (default: 9)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--before", type=Path, metavar="CHECKOUT", help="compare with ours of there, too"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # what this program starts
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if args.worker == OURS:
        huge_pages.restart()  # as the command does
        return ours(args.what, args.size, args.dtype, args.folder)
    if args.worker:
        return theirs(
            args.what, args.size, args.dtype, args.folder, compiled=args.worker == "torch.compile"
        )
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the two sides share a GPU
    facts = measure.facts("torch", "diffusers")
    print(json.dumps(facts, indent=2), flush=True)
    kind = "cpu" if jax.default_backend() == "cpu" else "gpu"
    rivals = ["torch", HUGE] if kind == "cpu" else ["torch", "torch.compile"]
    judge = "torch" if kind == "cpu" else rivals[-1]
    rivals += [BEFORE] if args.before else []
    figures = []
    for what in [args.what] if args.what else ["forward", "train"]:
        size = args.size or DEFAULT[kind][what]
        dtype = "float32" if kind == "cpu" else "bfloat16"
        before = args.before and args.before.resolve()
        row = compare(what, size, dtype, args.rounds, rivals, before)
        row |= {name: facts[name] for name in ("date", "revision")}
        figures.append(with_mfu(row, jax.devices()[0].device_kind))
    whole = sorted(others(args.json, figures) + figures, key=lambda row: row["what"])
    head = (
        "",
        "parameters",
        "latents",
        "precision",
        "beside",
        f"{OURS} s",
        "theirs s",
        "ratio",
        "MFU",
    )
    print(measure.table(head, rows(whole)) + "\nseconds and ratios: median (quartiles)")
    measure.write_json(args.json, {**facts, "rows": whole})
    if short := missed(figures, kind, judge):
        sys.exit("; ".join(short))
    return None


if __name__ == "__main__":
    main()
