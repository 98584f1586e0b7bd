"""Measure the conversion of a full-size SAT checkpoint into a cv3jax checkpoint and back.

    python benchmarks/convert.py --workdir runs/convert --json docs/guides/weights.json

The checkpoint has 2,906,612,484 random fp16 parameters. Seconds, sizes and peak memory are
measured. Each conversion is the command that users run, in a process of its own. Its peak is VmHWM,
the most memory that was ever resident, which includes mapped files. The tensors of the exported SAT
file are compared with the original ones bit by bit. For comparison, PyTorch reads that file and
writes it again. Needs 24 GB of disk and PyTorch (`make setup-torch`).
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import measure
import numpy as np

from cv3jax.cascade.parts import model_shapes
from cv3jax.models.unet import UNet
from cv3jax.quickstart.environment import environment
from cv3jax.weights import TARGETS
from cv3jax.weights.files import SAT_FILE
from cv3jax.weights.mapping import torch_shapes
from cv3jax.weights.names import unet_entries
from cv3jax.weights.select_model import PREFIX
from cv3jax.weights.torch_file import open_torch, save_torch

MOST_GB = 10
PEAK = """
import re, sys
from pathlib import Path
{work}
status = Path("/proc/self/status").read_text()
print("VmHWM", re.search(r"VmHWM:\\s+(\\d+)", status)[1], file=sys.stderr)
"""
CONVERT = PEAK.format(work="from cv3jax.commands import convert; convert.main(sys.argv[1:])")
PLAIN = PEAK.format(
    work="import torch; torch.save(torch.load(sys.argv[1], weights_only=True), sys.argv[2])"
)


def random_unet(folder: Path) -> int:
    """Write a SAT folder of random fp16 tensors with the released names and shapes.

    Returns the number of parameters.
    """
    model = UNet()
    shapes = torch_shapes(
        model_shapes(model, 4096),
        unet_entries(
            channels=model.channels,
            channel_mult=model.channel_mult,
            res_blocks=model.res_blocks,
            depth=model.depth,
            mid_depth=model.mid_depth,
            w_dim=model.w_dim,
        ),
    )
    rng = np.random.default_rng(0)
    # .004 to .06, as weights are
    bits = {name: rng.integers(0x1C00, 0x2C00, shape, np.uint16) for name, shape in shapes.items()}
    tensors = {PREFIX["unet"] + name: value.view(np.float16) for name, value in bits.items()}
    (folder / "1").mkdir(parents=True)
    (folder / "latest").write_text("1")
    save_torch(folder / "1" / SAT_FILE, tensors)
    return sum(value.size for value in tensors.values())


def run(program: str, *argv: str | Path) -> dict:
    """Run a program in a process of its own and return {"seconds", "peak_gb"}."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, argv)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return {
        "seconds": time.monotonic() - began,
        "peak_gb": int(done.stderr.split("VmHWM ")[1].split()[0]) * 1024 / 1e9,
    }


def size(folder: Path) -> float:
    """Return the GB of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def differing(ours: Path, theirs: Path) -> list[str]:
    """Return the names of tensors whose bits, dtype or shape differ."""
    a, b = open_torch(ours), open_torch(theirs)
    same = {
        name
        for name in a.keys() & b.keys()
        if a[name].dtype == b[name].dtype
        and np.array_equal(a[name].read().view(np.uint16), b[name].read().view(np.uint16))
    }
    return sorted((a.keys() | b.keys()) - same)


def one_round(work: Path, source: Path) -> dict:
    """Return the figures of PyTorch's copy, the conversion and every export.

    They run one after the other. The files that they write are removed.
    """
    figures = {
        "plain": run(PLAIN, source, work / "copy.pt"),
        "in": run(CONVERT, "--unet", source.parents[1], "--out", work / "cv3jax"),
    }
    figures["checkpoint_gb"] = size(work / "cv3jax")
    (work / "copy.pt").unlink()
    for target in TARGETS:
        out = work / f"to_{target}"
        figures[target] = run(
            CONVERT, "--checkpoint", work / "cv3jax", "--to", target, "--out", out
        )
        if target == "sat":
            figures["differing"] = differing(source, out / "base" / "1" / SAT_FILE)
        shutil.rmtree(out)
    shutil.rmtree(work / "cv3jax")
    for way in ("in", *TARGETS):
        figures[way]["times_plain"] = figures[way]["seconds"] / figures["plain"]["seconds"]
    return figures


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workdir", required=True, type=Path, help="a directory with 24 GB of room"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    shutil.rmtree(args.workdir / "sat", ignore_errors=True)
    count = random_unet(args.workdir / "sat")
    figures: dict = {
        "environment": environment() | {"revision": measure.revision(measure.ROOT) or "none"},
        "parameters": count,
        "sat_gb": size(args.workdir / "sat"),
        "rounds": [],
    }
    for _ in range(args.rounds):
        figures["rounds"].append(one_round(args.workdir, args.workdir / "sat" / "1" / SAT_FILE))
        print(json.dumps(figures["rounds"][-1]), flush=True)
    for way in ("in", *TARGETS):
        ratios = [one[way]["times_plain"] for one in figures["rounds"]]
        figures[way] = {
            "times_plain": statistics.median(ratios),
            "spread": max(ratios) - min(ratios),
            "peak_gb": max(one[way]["peak_gb"] for one in figures["rounds"]),
        }
    shutil.rmtree(args.workdir / "sat")
    bad = [way for way in ("in", *TARGETS) if figures[way]["peak_gb"] > MOST_GB]
    bad += [one["differing"] for one in figures["rounds"] if one["differing"]]
    text = json.dumps(figures, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    if bad:
        sys.exit(f"over {MOST_GB} GB, or other bits came out than went in: {bad}")


if __name__ == "__main__":
    main()
