"""Measure memory and seconds of a dataset of two billion records in 100,000 shards.

    python benchmarks/many_records.py --folder /disk/scratch --out benchmarks/results
    python benchmarks/many_records.py --folder /tmp/many --records 20000000 --before 070e9da

The dataset is simulated: all shards are names of the same file, of 20,000 records of tiny pictures.
Its description and its sizes.npy, of 8 bytes a record, are whole (16 GB for two billion records).
It is opened and read by the loader's own code, in processes of their own:

    windows   data.shuffle="windows:64", data.buckets=64 at 512², min_side 256
    global    the same in a global shuffle
    before    the global shuffle in the code of the commit --before, if it is given

Each reads --batches of 2,048 records, of which it is a host with one row in eight, without
decoding pictures. "windows" is then set to five random positions, and compared between three hosts
and two; and the positions of some rows in one window must lead to different records. Memory is the
peak of the resident set, mapped files included. Exits 1 if a process of this checkout takes over
2 GB, or if a comparison fails.
"""

import argparse
import errno
import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

BATCH, SEED = 2048, 0
LIMIT = 2 * 10**9  # bytes of a process
WINDOW = 64
ROWS = 64  # of a batch, whose positions in a window are looked at
DRAWN = 2**22  # sizes that are drawn; they recur


def build(folder: Path, records: int, shard: int) -> Path:
    """Write a dataset of so many records, `shard` in each shard, unless it is there."""
    from data_pipeline.images.decode import encode_png
    from data_pipeline.records.array_records import shard_name
    from data_pipeline.records.records import NAME, RecordWriter, make_record
    from data_pipeline.records.sizes import write_pieces

    shards = records // shard
    out = folder / f"records-{records}-{shard}"
    if (out / "sizes.npy").exists():
        return out
    first = folder / f"shard-of-{shard}"
    if not first.exists():
        image = encode_png(np.zeros((8, 8, 3), np.uint8))
        with RecordWriter(first, shards=1) as writer:
            for number in range(shard):
                writer.write(make_record(image, "a square", key=str(number)))
    out.mkdir(exist_ok=True)
    source = first / shard_name(NAME, 0, 1)
    for number in range(shards):
        target = out / shard_name(NAME, number, shards)
        try:
            os.link(source, target)
        except OSError as e:
            if e.errno != errno.EMLINK:  # a file has 65,000 names in ext4
                raise
            copy = folder / f"shard-{number}"
            copy.write_bytes(source.read_bytes())
            source = copy
            os.link(source, target)
    info = json.loads((first / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = [str(shard)] * shards
    (out / "dataset_info.json").write_text(json.dumps(info))
    (out / "features.json").write_bytes((first / "features.json").read_bytes())
    drawn = np.random.default_rng(SEED).integers(200, 2048, (DRAWN, 2), np.int32)
    pieces = (drawn[: min(DRAWN, records - at)] for at in range(0, records, DRAWN))
    write_pieces(out, pieces, records)
    return out


def peak() -> int:
    """Return the most bytes that this process held at a time."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def bytes_of(source, index, rng, size):
    """Return an example of a record that is read and not decoded."""
    return {"index": np.int64(index), "bytes": np.int64(len(source[index]["image"]))}


def number_of(source, index, rng, size):
    """Return an example of a record that is not read."""
    return {"index": np.int64(index)}


def work(folder: Path, side: str, batches: int) -> None:
    """Open and read the dataset, and print what each step took."""
    steps, began = [], time.perf_counter()

    def done(step: str) -> None:
        nonlocal began
        steps.append([step, time.perf_counter() - began, peak()])
        began = time.perf_counter()

    from data_pipeline.loading.bucket_sizes import around
    from data_pipeline.loading.loader import make_loader
    from data_pipeline.loading.settings import LoaderSettings
    from data_pipeline.records.records import open_records

    given = {"image_size": 512, "seed": SEED, "buckets": around(512, 64), "min_side": 256}
    given |= {"window": WINDOW} if side == "windows" else {}
    done("import")
    source = open_records(folder)
    done("open")
    settings = LoaderSettings(batch_size=BATCH, **given)
    loader = make_loader(source, settings, rows=range(BATCH // 8), prepare=bytes_of)
    done("sizes and buckets")
    for _ in itertools.islice(loader, batches):
        pass
    loader.close()
    done("read")
    if side == "windows":
        resume(source, LoaderSettings(batch_size=96, num_threads=0, **given))
        done("resume")
        once(source)
        done("one window")
    print(json.dumps(steps))


def resume(source, settings) -> None:
    """Compare the next batches of three hosts with those of two, at five random positions."""
    from data_pipeline.loading.loader import make_loader

    def hosts(count: int) -> list:
        each = settings.batch_size // count
        rows = [range(host * each, (host + 1) * each) for host in range(count)]
        return [make_loader(source, settings, rows=own, prepare=number_of) for own in rows]

    three, two = hosts(3), hosts(2)
    for position in np.random.default_rng(1).integers(0, len(source) // 96, 5).tolist():
        before = position - 1
        for loader in three:  # they get there, and two go on from the state of any
            loader.set_state({"next_index": before})
            next(loader)
        for loader in two:
            loader.set_state(three[0].get_state())
        for _ in range(3):
            one, other = (np.concatenate([next(x)["index"] for x in some]) for some in (three, two))
            if not np.array_equal(one, other):
                sys.exit(f"position {position}: two hosts read other records than three")


def once(source) -> None:
    """Check that the positions of a few rows in one window lead to different records."""
    from data_pipeline.loading.windows import WindowOrder

    order = WindowOrder(np.array(source.lengths), WINDOW, SEED, (), BATCH)
    window = 3
    positions = range(order.start(window), order.start(window + 1))
    found = [order.place(p) for p in positions if p % BATCH < ROWS]
    if len({place[:2] for place in found}) < len(found):
        sys.exit("a record occurs twice in a window")
    shards = {place.shard for place in found}
    if {place.window for place in found} != {window} or len(shards) > 2 + WINDOW * ROWS // BATCH:
        sys.exit("a window's records are not in its shards")


def sides(folder: Path, revision: str | None) -> dict[str, Path]:
    """Return where the code of each side is; that of an earlier commit is written to `folder`."""
    here = Path(__file__).resolve().parents[1]
    found = {"windows": here, "global": here}
    if revision is not None:
        tar = subprocess.run(
            ["git", "-C", str(here), "archive", revision, "data_pipeline"],
            capture_output=True,
            check=True,
        )
        with tarfile.open(fileobj=io.BytesIO(tar.stdout)) as archive:
            archive.extractall(folder / "before", filter="data")
        found["before"] = folder / "before"
    return found


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where the dataset is written, and is kept")
    parser.add_argument("--records", type=int, default=2 * 10**9)
    parser.add_argument("--shard", type=int, default=20_000, help="records of a shard")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--before", metavar="REV", help="also measure the code of a commit")
    parser.add_argument("--sides", nargs="+", help="only these (default: all)")
    parser.add_argument("--out", type=Path, help="where many_records.json and .md are written")
    parser.add_argument("--work", nargs=2, metavar=("SIDE", "DATASET"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(Path(args.work[1]), args.work[0], args.batches)
        return
    if min(args.records, args.shard, args.batches) < 1:
        parser.error("--records, --shard and --batches must be at least 1")
    if args.records % args.shard or args.records < args.shard * WINDOW:
        parser.error(f"--records must be a multiple of --shard, at least {WINDOW} of it")
    import measure  # which imports JAX, and a loader's process has none

    with tempfile.TemporaryDirectory() as place:
        folder = args.folder or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        data, results = build(folder, args.records, args.shard), {}
        for side, code in sides(Path(place), args.before).items():
            if args.sides and side not in args.sides:
                continue
            command = [sys.executable, __file__, "--work", side, str(data)]
            command += ["--batches", str(args.batches)]
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": str(code)},
                stdout=subprocess.PIPE,
                text=True,
            )
            if done.returncode:
                sys.exit(f"{side} failed")
            results[side] = json.loads(done.stdout.splitlines()[-1])
            print(side, results[side], flush=True)
    report(args, measure, results)


def report(args: argparse.Namespace, measure, results: dict) -> None:
    """Print and write the figures; exit with 1 where a process of this checkout took too much."""
    facts = {**measure.facts("grain", "array_record"), "records": args.records}
    rows = [
        (side, step, f"{seconds:.1f}", f"{most / 1e9:.2f}")
        for side, steps in results.items()
        for step, seconds, most in steps
    ]
    text = measure.table(("side", "step", "seconds", "peak GB so far"), rows)
    head = ", ".join(f"{name} {value}" for name, value in facts.items())
    print(text)
    if args.out:
        measure.write_json(args.out / "many_records.json", {"facts": facts, "results": results})
        (args.out / "many_records.md").write_text(f"{head}\n\n{text}\n")
    most = max(steps[-1][2] for side, steps in results.items() if side != "before")
    if most > LIMIT:
        sys.exit(f"a process took {most / 1e9:.2f} GB, at most {LIMIT / 1e9:g} is right")


if __name__ == "__main__":
    main()
