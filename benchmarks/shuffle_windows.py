"""Compare the order of windows of shards with the global shuffle, by the pairs in their batches.

    python benchmarks/shuffle_windows.py --out benchmarks/results

Batches of 2,048 are drawn by the loader's own order from --shards shards of 2,000 records each, at
random positions of an epoch, with --seeds seeds. Of each order:

    same shard      pairs of a batch whose records are of one shard, in percent
    neighbours      pairs of a batch less than 100 records apart on the disk, in percent
    distance        the mean distance of a pair of a batch on the disk, of the whole dataset
    spread, sorted  the standard deviation of a batch's mean over that of independent draws, of a
                    value that rises through the dataset: alike records lie together
    spread, dealt   the same where the records were dealt out to the shards one by one, as `cv3jax
                    data pack` does it

A spread of 1 means that a batch is as mixed as independent draws. Exits 1 if dealt records have a
spread above 1.1.
"""

import argparse
import sys
import time
from pathlib import Path

import measure
import numpy as np

from data_pipeline.loading.damaged import Cell
from data_pipeline.loading.order import Windows, epochs

BATCH, SHARD, MOST = 2048, 2000, 1.1
COLUMNS = ("same_shard", "neighbours", "distance", "sorted", "dealt", "microseconds")


class Shards:
    """Records without content."""

    def __init__(self, count: int):
        """Make so many shards."""
        self.lengths = (SHARD,) * count

    def __len__(self) -> int:
        """Return the number of records."""
        return sum(self.lengths)


def statistics_of(shards: int, window: int, seed: int, batches: int) -> dict[str, float]:
    """Return the figures of an order; window 0 is the global shuffle."""
    records = Shards(shards)
    windows = Windows(window, seed, BATCH, tuple(range(BATCH)), BATCH) if window else None
    cell = Cell(0, records, range(len(records)))
    stream = epochs(cell, seed, shuffle=True, windows=windows)
    drawn = np.random.default_rng(seed).integers(0, len(records) // BATCH, batches)
    began = time.perf_counter()
    places = np.array([[stream[int(k) * BATCH + row].place for row in range(BATCH)] for k in drawn])
    took = time.perf_counter() - began
    count = len(records)
    dealt = places % SHARD * shards + places // SHARD  # where such a record was before

    def spread_of(values: np.ndarray) -> float:
        means = (values / count).mean(axis=1) - 0.5
        return float(np.sqrt(np.mean(means**2) * 12 * BATCH))

    pairs = BATCH * (BATCH - 1) / 2
    ordered = np.sort(places, axis=1)
    close = [
        np.sum(np.searchsorted(row, row + 100) - np.arange(BATCH) - 1) / pairs for row in ordered
    ]
    shared = [np.sum(n * (n - 1) / 2) / pairs for n in map(np.bincount, places // SHARD)]
    weights = 2 * np.arange(BATCH) - BATCH + 1  # the sum of all distances of sorted numbers
    distance = (ordered * weights).sum(axis=1) / pairs / count
    return {
        "same_shard": 100 * float(np.mean(shared)),
        "neighbours": 100 * float(np.mean(close)),
        "distance": float(distance.mean()),
        "sorted": spread_of(places),
        "dealt": spread_of(dealt),
        "microseconds": took / places.size * 1e6,
    }


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=1024)
    parser.add_argument("--windows", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--batches", type=int, default=60, help="of each seed (default: 60)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where shuffle_windows.json and .md are written")
    args = parser.parse_args()
    if min(args.shards, *args.windows, args.batches, args.seeds) < 1:
        parser.error("--shards, --windows, --batches and --seeds must be at least 1")
    results = {}
    for window in (0, *args.windows):
        name = f"windows:{window}" if window else "global"
        made = [
            statistics_of(args.shards, window, seed, args.batches) for seed in range(args.seeds)
        ]
        results[name] = {column: [each[column] for each in made] for column in COLUMNS}
        print(name, {column: str(measure.spread(x)) for column, x in results[name].items()})
    facts = {**measure.facts("grain", "numpy"), "shards": args.shards, "batches": args.batches}
    rows = [(name, *(measure.spread(one[c]) for c in COLUMNS)) for name, one in results.items()]
    head = ("order", "same shard %", "neighbours %", "distance", "spread, sorted", "spread, dealt")
    text = measure.table((*head, "µs a record"), rows)
    print(text)
    if args.out:
        measure.write_json(args.out / "shuffle_windows.json", {"facts": facts, "results": results})
        said = ", ".join(f"{name} {value}" for name, value in facts.items())
        (args.out / "shuffle_windows.md").write_text(f"{said}\n\n{text}\n")
    for name, one in results.items():
        if (worst := measure.spread(one["dealt"]).median) > MOST:
            sys.exit(f"{name}: dealt records have a spread of {worst:.2f}, at most {MOST} is right")


if __name__ == "__main__":
    main()
