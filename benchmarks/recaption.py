"""Measure how much of a server's limit recaptioning uses, and check that no record is left open.

    python benchmarks/recaption.py --seconds 90

The server (tests/helpers/caption_server.py, a process of its own) takes --limit requests a second
and --burst at once. It refuses the rest with status 429 and Retry-After: 1. It answers after 20 ms.
One of ten records meets a 500, a 503, a second's delay, a cut or malformed body, or an empty,
truncated or refused answer. There are two runs: in one the client knows the limit (--rate), in the
other it has to find it from the 429s. The share is of all requests that the server could have taken
(its burst, and its rate times the time) from the first request until the last record was begun;
later there is no work left. Exits 1 if a share is below 0.9, if a record has neither caption nor
reason, or if an answered question was asked again.
"""

import argparse
import collections
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
import caption_answers
import caption_server

from cv3jax.distributed.backend import prefer_cpu
from data_pipeline.images.decode import encode_png
from data_pipeline.recaption.run import recaption
from data_pipeline.recaption.settings import RecaptionSettings
from data_pipeline.records.records import RecordWriter, make_record, open_records

LEAST = 0.9
TURNS = 3


def run(
    folder: Path, data: Path, name: str, *, limit: float, burst: float, given: bool
) -> dict[str, Any]:
    """Recaption against a fresh server and return what both sides counted."""
    command = [
        sys.executable,
        caption_server.__file__,
        "--limit",
        str(limit),
        "--burst",
        str(burst),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        url = server.stdout.readline().strip()
        began = time.perf_counter()
        report = recaption(
            data,
            folder / name,
            RecaptionSettings(
                endpoint=url,
                model=caption_answers.MODEL,
                key=caption_answers.KEY,
                dialogue=folder / "dialogue.json",
                rate=60 * limit if given else None,
                timeout=30,
                image_side=64,
            ),
        )
        seconds = time.perf_counter() - began
        server.stdin.close()
        log = json.loads(server.stdout.readline())
    admitted = [
        (at, record, turn, action)
        for at, record, turn, action in log["seen"]
        if action != "limited"
    ]
    start, end = admitted[0][0], max(at for at, _, turn, _ in admitted if turn == 0)
    taken = sum(at <= end for at, *_ in admitted)
    answered = collections.Counter(
        (record, turn) for _, record, turn, action in admitted if action in ("ok", "slow")
    )
    return {
        "share": taken / (burst + limit * (end - start)),
        "requests_per_second": taken / (end - start),
        "seconds": seconds,
        "requests": len(log["seen"]),
        "limited": len(log["seen"]) - len(admitted),
        "records": report["records"],
        "recaptioned": report["recaptioned"],
        "reasons": report["reasons"],
        "retries": report["retries"],
        "unsettled": report["records"] - report["recaptioned"] - sum(report["reasons"].values()),
        "repeated": sum(n - 1 for n in answered.values()),
        "refused_by_server": log["wrong"],
        "captions": sum(bool(record["recaption"]) for record in open_records(folder / name)),
    }


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=100,
        help="requests a second that the server takes (default: 100)",
    )
    parser.add_argument("--burst", type=float, default=10, help="of them at once (default: 10)")
    parser.add_argument(
        "--seconds", type=float, default=90, help="that each of the two should take (default: 90)"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    records = int(args.limit * args.seconds / TURNS)
    if args.limit <= 0 or args.burst < 1 or not 80 <= records <= 100_000:
        parser.error(
            "--limit must be above 0, --burst at least 1, and the seconds enough for 80 to 100,000"
            " records of three requests"
        )
    prefer_cpu()
    facts = measure.facts("httpx")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        turns = [
            "Describe the image.",
            "Which colours are there?",
            "Merge {caption} with your answers.",
        ]
        (folder / "dialogue.json").write_text(json.dumps({"turns": turns}))
        with RecordWriter(folder / "data") as writer:
            # the writer puts records into the shards in turn, and they are read shard by shard;
            # numbers only have to be distinct
            for number in range(records):
                writer.write(
                    make_record(
                        encode_png(caption_answers.solid(number)),
                        f"old {number}",
                        key=f"{number:06d}",
                    )
                )
        results = {
            name: run(
                folder, folder / "data", name, limit=args.limit, burst=args.burst, given=given
            )
            for name, given in (("given", True), ("found", False))
        }
    print(json.dumps(facts, indent=2))
    head = (
        "the limit is",
        "share of it",
        "requests/s",
        "429s",
        "records",
        "captions",
        "with a reason",
        "retries",
        "asked again",
    )
    rows = [
        (
            name,
            f"{r['share']:.3f}",
            f"{r['requests_per_second']:.1f}",
            r["limited"],
            r["records"],
            r["captions"],
            sum(r["reasons"].values()),
            r["retries"],
            r["repeated"],
        )
        for name, r in results.items()
    ]
    print(measure.table(head, rows))
    measure.write_json(args.json, {**facts, "limit": args.limit, "burst": args.burst, **results})
    wrong = [
        f"{name}: share {r['share']:.3f} (bar: {LEAST})"
        for name, r in results.items()
        if r["share"] < LEAST
    ]
    wrong += [
        f"{name}: {r['unsettled']} records without caption or reason"
        for name, r in results.items()
        if r["unsettled"]
    ]
    wrong += [
        f"{name}: captions and report differ"
        for name, r in results.items()
        if r["captions"] != r["recaptioned"]
    ]
    wrong += [
        f"{name}: {r['repeated']} answered questions asked again"
        for name, r in results.items()
        if r["repeated"]
    ]
    wrong += [
        f"{name}: malformed requests, {r['refused_by_server'][0]}"
        for name, r in results.items()
        if r["refused_by_server"]
    ]
    if wrong:
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()
