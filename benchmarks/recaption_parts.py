"""Measure whether processes of `cv3jax data recaption` keep a batching server busy.

    python benchmarks/recaption_parts.py --processes 1 2 4 --out benchmarks/results

The server (tests/helpers/batching_server.py, a process of its own) has the limit of a real one: so
many answers at once, each after --latency seconds, which is --rate answers a second. Each process
has `--part i/N` and its share of the records, of three questions each. Its rate is not limited
(--rate), so that nothing but the processes' own work is in the way. The share is that of the
server's limit, in the median second from the fifth one until the first process has asked all.
The processes and the server share this machine's cores, so their CPU time an answer is given, too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
import batching_server
import caption_answers

from data_pipeline.images.decode import encode_png
from data_pipeline.records.records import RecordWriter, make_record

TURNS = 3
RAMP = 5  # seconds until all processes are at work
CONCURRENCY = 1024  # of all processes together
COLUMNS = ("processes", "answers/s", "share of the limit", "waiting", "ms CPU an answer", "records")


def run(folder: Path, count: int, args: argparse.Namespace) -> dict:
    """Recaption by `count` processes against a fresh server; return what both sides counted."""
    places = round(args.rate * args.latency)
    given = [sys.executable, batching_server.__file__, f"--places={places}"]
    with subprocess.Popen(
        [*given, f"--latency={args.latency}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        url = server.stdout.readline().strip()
        out = folder / f"by_{count}"
        command = [sys.executable, "-m", "cv3jax", "data", "recaption", "--input", folder / "data"]
        command += ["--endpoint", url, "--model", "m", "--out", out, "--rate", "1e8"]
        command += ["--dialogue", folder / "dialogue.json"]
        command += ["--concurrency", str(CONCURRENCY // count)]
        before = os.times()
        started = [
            subprocess.Popen(
                [*map(str, command), *([f"--part={i}/{count}"] if count > 1 else [])],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for i in range(count)
        ]
        codes = [process.wait() for process in started]
        after = os.times()
        server.stdin.close()
        log = json.loads(server.stdout.readline())
    if any(codes):
        sys.exit(f"{count} processes: exit codes {codes}")
    answered = log["answered"]
    # until the first process has asked all: after that, fewer than `count` are at work
    full = [n for n in answered[RAMP:] if n > 0.5 * max(answered)] or answered
    report = json.loads((out / "recaption_report.json").read_text())
    cpu = sum(getattr(after, k) - getattr(before, k) for k in ("children_user", "children_system"))
    return {
        "answers_per_second": statistics.median(full),
        "share": statistics.median(full) / args.rate,
        "waiting": statistics.median(log["waiting"][RAMP:] or [0]),
        "cpu_seconds_per_answer": cpu / report["requests"],
        "by_second": answered,
        "records": report["records"],
        "recaptioned": report["recaptioned"],
        "requests": report["requests"],
    }


def main() -> None:
    """Run the benchmark from the command line and write its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rate", type=float, default=3000, help="answers a second (default: 3000)")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds (default: 0.2)")
    parser.add_argument("--records", type=int, default=20_000, help="(default: 20000)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    facts = measure.facts("httpx")
    results = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        turns = ["Describe it.", "Which colours are there?", "Merge {caption} with your answers."]
        (folder / "dialogue.json").write_text(json.dumps({"turns": turns}))
        with RecordWriter(folder / "data", shards=max(args.processes)) as writer:
            for number in range(args.records):
                image = encode_png(caption_answers.solid(number))
                writer.write(make_record(image, f"old {number}", key=f"{number:06d}"))
        for count in args.processes:
            began = time.perf_counter()
            results[count] = run(folder, count, args)
            results[count]["seconds"] = time.perf_counter() - began
    rows = [
        (
            count,
            f"{r['answers_per_second']:,.0f}",
            f"{100 * r['share']:.1f} %",
            f"{r['waiting']:,.0f}",
            f"{1e3 * r['cpu_seconds_per_answer']:.2f}",
            f"{r['recaptioned']:,} of {r['records']:,}",
        )
        for count, r in results.items()
    ]
    named = ", ".join(f"{name} {value}" for name, value in facts.items())
    limit = f"the server's limit: {args.rate:,.0f} answers a second"
    written = f"{named}\n\n{limit}\n\n{measure.table(COLUMNS, rows)}\n"
    print(written)
    measure.write_json(args.out / "recaption_parts.json", {"facts": facts, "results": results})
    (args.out / "recaption_parts.md").write_text(written)


if __name__ == "__main__":
    main()
