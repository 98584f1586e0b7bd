"""Check `cv3jax data build` against planted faults, and measure its time and memory.

    python benchmarks/data_build.py --count 20000

Exits 1 if a bar is missed. The bars: every blocked, undecodable and bomb record is found, 99 % of
the exact and 95 % of the near duplicates; at most 0.1 % of the good records are dropped; the counts
add up; 4 times the input takes at most 4.4 times the time and 1.5 times the memory; the output has
the same bytes after kill -9 at a random point, and from two processes as from one. Dataflow, Flink
and Spark are not run.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import planted

from cv3jax.distributed.backend import prefer_cpu
from data_pipeline.records.records import open_records

BARS = {
    "blocked": 1.0,
    "undecodable": 1.0,
    "bomb": 1.0,
    "oversize": 1.0,
    "exact": 0.99,
    "near": 0.95,
}
GOOD_LOST, SLOWER, LARGER = 0.001, 4.4, 1.5
REASONS = {
    "blocked": "blocked_source",
    "undecodable": "undecodable",
    "bomb": "decompression_bomb",
    "oversize": "too_large",
}
TWO = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


def command(folder: Path, out: Path, *more: str) -> list[str]:
    """Return the command line of a build of the tars in `folder`, followed by `more`."""
    return [
        sys.executable,
        "-m",
        "data_pipeline.cli",
        "build",
        "--input",
        f"{folder}/*.tar",
        "--out",
        str(out),
        "--blocked-sources",
        f"{folder}/blocked.txt",
        "--max-bytes",
        str(planted.MAX_BYTES),
        "--shard-mb",
        "64",
        *more,
    ]


def build(folder: Path, out: Path, *more: str) -> tuple[float, float]:
    """Run a build and return its seconds and peak resident MB.

    The peak is that of the largest process, of the build's own and of those that it starts.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command(folder, out, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    error = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(
            f"the build ended with {os.waitstatus_to_exitcode(status)}: {error[-2000:]}"
        )
    return time.perf_counter() - began, used.ru_maxrss / 1024


def found(out: Path, faults: planted.Plan) -> dict[str, Any]:
    """Return the share found of each kind of fault and the share of good records lost.

    The result also says whether the report's counts add up.
    """
    records = open_records(out)
    kept = {
        records[i]["key"]: records[i]["width"] * records[i]["height"] for i in range(len(records))
    }
    report = json.loads((out / "report.json").read_text())
    here = {planted.key_of(i): kind for i, kind in enumerate(faults.kinds) if i not in faults.lost}
    of = {
        kind: [key for key, is_kind in here.items() if is_kind == kind] for kind in (*BARS, "good")
    }
    figures: dict[str, Any] = {
        kind: sum(key not in kept for key in of[kind]) / len(of[kind]) for kind in REASONS
    }
    # of a record and its copy one stays, the larger: a pair is found when it is not there twice
    pairs = {planted.key_of(copy): planted.key_of(first) for copy, first in faults.repeats.items()}
    for kind in ("exact", "near"):
        figures[kind] = sum(not (key in kept and pairs[key] in kept) for key in of[kind]) / len(
            of[kind]
        )
    copied = {first: copy for copy, first in pairs.items()}
    lost = [key for key in of["good"] if key not in kept and copied.get(key) not in kept]
    figures |= {
        "good lost": len(lost) / len(of["good"]),
        "good": len(of["good"]),
        "kept": len(kept),
    }
    figures["reasons right"] = all(
        report["dropped"].get(reason, 0) == len(of[kind]) for kind, reason in REASONS.items()
    )
    # the record that the cut goes through is counted, as damaged_tar
    read = report["kept"] + sum(report["dropped"].values())
    figures["adds up"] = read == report["items"] == len(here) + 1 and report["kept"] == len(kept)
    figures["broken files"] = [Path(each["file"]).name for each in report["broken_files"]]
    return figures


def digest(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())
    }


def killed(folder: Path, out: Path, after: float) -> int:
    """Kill a build and all its processes with -9 after `after` seconds, then run it again.

    Returns 1 if it was killed, or 0 if it ended before.
    """
    process = subprocess.Popen(
        command(folder, out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    ended = process.wait()
    build(folder, out)
    return int(ended == -signal.SIGKILL)


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--count",
        type=int,
        default=20_000,
        help="records; a fifth and four fifths are built too (default: %(default)s)",
    )
    parser.add_argument(
        "--shard", type=int, default=1000, help="records in a tar (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--kills",
        type=int,
        default=2,
        help="builds of the fifth killed at a random point (default: %(default)s)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="where to keep the tars; those that are there are used (default: a temporary one)",
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    if args.count < 5 * args.shard or args.count % (5 * args.shard):
        parser.error("--count must be a multiple of 5 × --shard")
    prefer_cpu()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measured(args, Path(temporary))
    measure.write_json(args.json, figures)
    for name, value in figures["facts"].items():
        print(f"{name}: {value}")
    print()
    rows = [
        (row["name"], row["value"], row["bar"], "" if row["reached"] else "MISSED")
        for row in figures["rows"]
    ]
    print(measure.table(("figure", "value", "bar", ""), rows))
    print("\nNot run: Dataflow, Flink, Spark.")
    sys.exit(0 if all(row["reached"] for row in figures["rows"]) else 1)


def part(tars: Path, paths: list[Path], folder: Path) -> Path:
    """Return a new folder with links to some of the tars."""
    folder.mkdir()
    shutil.copy(tars / "blocked.txt", folder)
    for path in paths:
        (folder / path.name).symlink_to(path.absolute())
    return folder


def measured(args: argparse.Namespace, temporary: Path) -> dict[str, Any]:
    """Return the facts of the machine and input, and a row for each bar."""
    tars, rows = (args.folder or temporary / "tars"), []
    faults = planted.plan(args.count, args.seed, args.shard)
    if not (tars / "blocked.txt").exists():
        print(f"drawing {args.count:,} records", file=sys.stderr)
        planted.generate(tars, args.count, seed=args.seed, shard=args.shard)
    paths = sorted(tars.glob("*.tar"))
    small, large = (
        part(tars, paths[:count], temporary / f"of{count}")
        for count in (len(paths) // 5, len(paths) // 5 * 4)
    )

    def row(name: str, value: Any, bar: str, reached: bool) -> None:
        print(f"{name}: {value} ({bar})", file=sys.stderr)
        rows.append({"name": name, "value": value, "bar": bar, "reached": bool(reached)})

    seconds, memory = zip(
        build(small, temporary / "a" / "D"), build(large, temporary / "large" / "D"), strict=True
    )
    whole_seconds, _ = build(tars, temporary / "whole" / "D")
    figures = found(temporary / "whole" / "D", faults)
    for kind, bar in BARS.items():
        row(f"{kind} found", f"{figures[kind]:.4f}", f"at least {bar}", figures[kind] >= bar)
    row(
        "good ones lost",
        f"{figures['good lost']:.5f} of {figures['good']:,}",
        f"at most {GOOD_LOST}",
        figures["good lost"] <= GOOD_LOST,
    )
    row(
        "counts by reason are the planted ones",
        figures["reasons right"],
        "True",
        figures["reasons right"],
    )
    row("report adds up to the input", figures["adds up"], "True", figures["adds up"])
    row(
        "broken tars named",
        ", ".join(figures["broken files"]),
        paths[-1].name,
        figures["broken files"] == [paths[-1].name],
    )
    slower, larger = seconds[1] / seconds[0], memory[1] / memory[0]
    row(
        "seconds, 4 times the input",
        f"{slower:.2f} ({seconds[0]:.0f} s, {seconds[1]:.0f} s)",
        f"at most {SLOWER}",
        slower <= SLOWER,
    )
    row(
        "peak memory, 4 times the input",
        f"{larger:.2f} ({memory[0]:.0f} MB, {memory[1]:.0f} MB)",
        f"at most {LARGER}",
        larger <= LARGER,
    )
    fifth = digest(temporary / "a" / "D")
    rng = random.Random(args.seed)
    for number in range(args.kills):
        after = rng.uniform(2, seconds[0])
        times = killed(small, temporary / f"k{number}" / "D", after)
        same = digest(temporary / f"k{number}" / "D") == fifth
        row(
            f"same bytes, kill -9 after {after:.1f} s",
            f"{same}, killed {times} times",
            "True",
            same and times,
        )
    build(small, temporary / "two" / "D", *TWO)
    same = digest(temporary / "two" / "D") == fifth
    row("same bytes from two processes", same, "True", same)
    size = sum(path.stat().st_size for path in paths)
    facts = measure.facts("apache-beam", "array_record", "tensorflow-datasets", "pillow", "numpy")
    facts["input"] = f"{args.count:,} records, {size / 2**20:,.0f} MiB in {len(paths)} tars"
    facts["speed"] = f"{args.count / whole_seconds:.0f} records a second"
    return {"facts": facts, "rows": rows}


if __name__ == "__main__":
    main()
