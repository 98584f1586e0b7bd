"""The figures of a load as text: a table of latencies and one of the engine's lanes."""

from collections.abc import Sequence
from typing import Any

from cv3jax.serving.load.arrivals import PERCENTILES


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)) + " |"
        for row in (head, *rows)
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (n + 2) for n in widths) + "|", *lines[1:]])


def latency_table(latency: dict[str, dict[str, float]]) -> str:
    """Return the table of latencies by kind, in seconds."""
    names = [f"P{percent}" for percent in PERCENTILES]
    rows = [
        [
            kind,
            str(found["count"]),
            f"{found['mean']:.3f}",
            *(f"{found[name.lower()]:.3f}" for name in names),
        ]
        for kind, found in latency.items()
    ]
    return table(["kind", "answered", "mean s", *(f"{name} s" for name in names)], rows)


def lane_table(lanes: dict[str, dict[str, Any]]) -> str:
    """Return the table of what each lane of the engine did."""
    rows = [
        [
            lane,
            str(found["units"]),
            f"{found['rows_per_unit']:.2f}",
            f"{100 * found['occupancy']:.0f} %",
            f"{1000 * found['seconds'] / found['units']:.1f}",
            f"{found['seconds']:.2f}",
        ]
        for lane, found in lanes.items()
    ]
    head = ["lane", "units", "rows a unit", "occupancy", "ms a unit", "seconds"]
    return table(head, rows)


def text(figures: dict[str, Any]) -> str:
    """Return all figures of a load as text."""
    clients, rate = figures["clients"], figures["rate"]
    how = f"{rate:g} requests per second" if clients is None else f"{clients} requests at a time"
    lines = [
        f"{figures['model']}: {figures['requests']} requests, {how}",
        f"{figures['pictures_per_second']:.3g} pictures per second{_whole(figures)},"
        f" {figures['refused']} refused with 429",
        *(f"{count} × {error}" for error, count in figures["errors"].items()),
        f"requests were sent at most {figures['late_seconds']:.3f} s late",
        "",
        latency_table(figures["latency"]),
    ]
    engine = figures["engine"]
    if engine["lanes"]:
        lines += [
            "",
            f"{100 * engine['occupancy']:.0f} % of the rows of all units were requests'",
            "",
            lane_table(engine["lanes"]),
        ]
    return "\n".join(lines)


def _whole(figures: dict[str, Any]) -> str:
    """Return what a load at saturation has besides: the throughput with its end."""
    if figures["clients"] is None:
        return ""
    return f" ({figures['whole_per_second']:.3g} with the end, when fewer are under way)"
