"""Compare our UNet with diffusers' UNet2DConditionModel in PyTorch, with the same weights.

    python benchmarks/unet.py --json benchmarks/results/unet.json

Seconds of a forward pass and of a train step are measured. Each side has a process of its own, and
they take turns of two calls, of which the second is timed; with --apart one runs after the other,
each with the whole memory of a GPU. On a CPU both compute in float32. On a GPU both compute in
bfloat16, attention is cuDNN's on both sides, and PyTorch runs a second time under torch.compile. In
a forward pass the weights have that precision. A train step keeps them in float32; it consists of
the mean squared error, its gradient, clipping by the global norm, AdamW and an EMA. Ours is
`make_train_step`; PyTorch's uses its fused AdamW. On a CPU, ours has its memory in huge pages, as
`cv3jax train` has, and PyTorch runs a second time with them too. Both sides must agree in their
outputs and in their losses after one step. MFU is given if the chip's peak is known, and the memory
is that of one call: of ours as XLA plans it, of PyTorch's as its allocator counts it on a GPU. The
JSON is written as soon as a side has its figures. Exits 1 if a median ratio is above 1.0 (on a GPU:
0.8, against torch.compile), or if the full-size train step has less than 60 % MFU on a GPU. Needs
PyTorch (`make setup-torch`) and diffusers.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import jax
import measure
from unet_sides import OURS, REMATS, SIZES, Case, ours
from unet_turns import HUGE, compare

from cv3jax.distributed import huge_pages
from cv3jax.distributed.chips import chip_of

DEFAULT = {
    "cpu": {"forward": "medium", "train": "small"},
    "gpu": {"forward": "full", "train": "full"},
}
RIVALS = ("torch", "torch.compile")
MOST = {"cpu": 1.0, "gpu": 0.8}
LEAST_MFU = 0.6  # of the full size's train step, on a GPU
COLUMNS = (
    "",
    "parameters",
    "latents",
    "precision",
    "beside",
    f"{OURS} s",
    "theirs s",
    "ratio",
    "MFU",
    "GB",
    "theirs GB",
)


def with_mfu(row: dict, device_kind: str) -> dict:
    """Return the row with the MFU of each side in all its turns, if the chip's peak is known.

    The FLOPs are ours on both sides: those of the same network, without recomputation.
    """
    chip = chip_of(device_kind)
    if not chip:
        return row

    def of(name: str) -> measure.Spread:
        turns = [seconds for took in row["seconds"].values() for seconds in took.get(name, ())]
        return measure.spread([row["flops"] / seconds / chip.flops for seconds in turns])

    rivals = {name: of(name) for name in row["ratio"]}
    return {**row, "mfu": of(OURS), "mfu_beside": rivals}


def missed(figures: list[dict], kind: str, rival: str) -> list[str]:
    """Return a line for each bar that was missed."""
    slower = [
        f"{row['what']} {row['ratio'][rival]} of {rival}'s time, above {MOST[kind]}"
        for row in figures
        if rival in row["ratio"] and not row["ratio"][rival].median <= MOST[kind]
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


def others(path: Path | None, kinds: list[str]) -> list[dict]:
    """Return the rows of a result file whose kind is not measured now."""
    stored = json.loads(path.read_text())["rows"] if path and path.is_file() else []
    return [row for row in stored if row["what"] not in kinds]


def gigabytes(size: int | None) -> str:
    """Return a number of bytes in GB, or nothing where it is unknown."""
    return "" if size is None else f"{size / 1e9:.2f}"


def rows(figures: list[dict]) -> list[tuple]:
    """Return the rows of the table; where ours has a rival, it is not listed alone too."""
    return [
        (
            row["what"],
            f"{row['parameters'] / 1e9:.2f} B",
            f"{row['batch']} × {row['side']}²",
            row["dtype"],
            rival,
            measure.spread(took[OURS]),
            measure.spread(took[rival]) if rival in took else "",
            row["ratio"].get(rival, ""),
            f"{row['mfu'].median:.0%}" if "mfu" in row else "",
            gigabytes(row["memory_bytes"][OURS]),
            gigabytes(row["memory_bytes"].get(rival)),
        )
        for row in figures
        for rival, took in row["seconds"].items()
        if rival in took or not row["ratio"]
    ]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--what", choices=("forward", "train"), help="one of them alone; FILE keeps the other"
    )
    made.add_argument(
        "--size",
        choices=SIZES,
        help="of the model (default on a CPU: medium forward, small train; on a GPU: full)",
    )
    made.add_argument("--batch", type=int, metavar="N", help="pictures (default: the size's)")
    made.add_argument(
        "--remat",
        choices=REMATS,
        default="none",
        help="what a train step computes again, on both sides (default: none)",
    )
    made.add_argument(
        "--beside",
        nargs="*",
        choices=RIVALS,
        metavar="RIVAL",
        help="of torch and torch.compile (default on a CPU: torch; on a GPU: both); may be none",
    )
    made.add_argument("--apart", action="store_true", help="one side after the other")
    made.add_argument("--rounds", type=int, default=9, help="turns of each pair (default: 9)")
    made.add_argument("--json", type=Path, metavar="FILE")
    made.add_argument("--worker", help=argparse.SUPPRESS)  # what this program starts
    made.add_argument("--dtype", help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return made


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    args = parser().parse_args()
    if args.rounds < 1 or (args.batch is not None and args.batch < 1):
        parser().error("--rounds and --batch must be at least 1")
    if args.worker:
        case = Case(args.what, args.size, args.dtype, args.batch, args.remat)
        if args.worker == OURS:
            huge_pages.restart()  # as the command does
            return ours(case, args.folder)
        # it takes the shapes of our parameters, and none of the GPU's memory for them
        jax.config.update("jax_platforms", "cpu")
        from unet_torch import theirs

        return theirs(case, args.folder, compiled=args.worker == "torch.compile")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the two sides share a GPU
    kind = "cpu" if jax.default_backend() == "cpu" else "gpu"
    rivals = ["torch", HUGE] if kind == "cpu" else list(RIVALS)
    rivals = rivals if args.beside is None else list(dict.fromkeys(args.beside))
    judge = "torch" if kind == "cpu" else rivals[-1] if rivals else ""
    facts = measure.facts(*(("torch", "diffusers") if rivals else ()))
    print(json.dumps(facts, indent=2), flush=True)
    figures: list[dict] = []
    kinds = [args.what] if args.what else ["forward", "train"]
    kept = others(args.json, kinds)
    for what in kinds:
        size = args.size or DEFAULT[kind][what]
        dtype = "float32" if kind == "cpu" else "bfloat16"
        earlier = list(figures)

        def keep(row: dict, earlier: list[dict] = earlier) -> None:
            row |= {name: facts[name] for name in ("date", "revision")}
            figures[:] = [*earlier, with_mfu(row, jax.devices()[0].device_kind)]
            whole = sorted([*kept, *figures], key=lambda row: row["what"])
            measure.write_json(args.json, {**facts, "rows": whole})

        case = Case(what, size, dtype, args.batch, args.remat)
        compare(case, args.rounds, rivals, apart=args.apart, keep=keep)
    print(measure.table(COLUMNS, rows(figures)) + "\nseconds and ratios: median (quartiles)")
    short = [f"{row['what']}: {why}" for row in figures for why in row["failed"].values()]
    short += missed(figures, kind, judge)
    if short:
        sys.exit("; ".join(short))
    return None


if __name__ == "__main__":
    main()
