"""Compute from result files what the documents must say of the loader's orders and memory."""

import statistics
from collections.abc import Iterator

from documents import result
from figure_text import Saying, row, spread

LOADER = "docs/scale/loader.md"


def shuffle_windows() -> Iterator[Saying]:
    for name, one in result("shuffle_windows")["results"].items():
        columns = ("same_shard", "distance", "sorted", "dealt")
        yield LOADER, row(name, *(quartiles(one[column]) for column in columns))


def many_records() -> Iterator[Saying]:
    found = result("many_records")["results"]
    steps = {side: {x[0]: x[1:] for x in one} for side, one in found.items()}
    most = max(peak for one in steps.values() for _, peak in one.values()) / 1e9
    seconds = steps["windows"]["sizes and buckets"][0]
    yield LOADER, f"take {most:.2f} GB and {seconds:.0f} seconds at the start of each process"


def quartiles(values: list[float]) -> str:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return spread([median, low, high])
