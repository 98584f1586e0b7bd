"""The tables that `cv3jax evaluate` prints."""

from collections.abc import Sequence
from typing import Any

from cv3jax.evaluation.ablations.columns import columns_of, signed
from cv3jax.evaluation.page import interval, number
from data_pipeline.io.errors import counted


def of_report(report: dict[str, Any]) -> str:
    """Return the figures of a report as lines of text."""
    rows = [
        [
            column,
            number(figure["value"]),
            interval(figure),
            metric["better"],
            f"{figure['n']:,}",
            figure["protocol"][:12],
        ]
        for metric in report["metrics"].values()
        for column, figure in metric["figures"].items()
    ]
    head = ("figure", "value", "95 % interval", "better", "pictures", "protocol")
    lines = [
        f"{name} has no score of {counted(told['pictures'], 'picture')}: {told['why']}"
        for name, metric in report["metrics"].items()
        if (told := metric.get("left_out")) and told["pictures"]
    ]
    return "\n".join([_table(head, rows), *lines])


def of_comparison(found: dict[str, Any]) -> str:
    """Return a comparison as lines of text: what differs, and how it was drawn."""
    rows = [
        [
            column,
            number(one["a"]["value"]),
            number(one["b"]["value"]),
            number(one["difference"]),
            interval(one),
            "–" if one["p"] is None else f"{one['p']:.4f}",
            one["better"],
        ]
        for columns in found["metrics"].values()
        for column, one in columns.items()
    ]
    head = ("figure", "A", "B", "A - B", "95 % interval", "p", "better")
    lines = [f"A: {found['a']}", f"B: {found['b']}", "", _table(head, rows)]
    if found["drawing"]:
        lines += ["", "drawn otherwise, A against B:", *(f"  {line}" for line in found["drawing"])]
    for name, why in found["without_interval"].items():
        lines += ["", f"the difference of {name} has no interval: {why}"]
    if found["only_one_has"]:
        lines += ["", f"only one has: {', '.join(found['only_one_has'])}"]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under their heads, in columns; the first is at the left and the rest right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )


def of_ablations(found: dict[str, Any]) -> str:
    """Return the groups of an ablation as lines of text: figures, and differences from the first.

    A difference has a * where its interval does not hold 0.
    """
    parts = []
    for name, group in found["groups"].items():
        columns = columns_of(group)
        head = ("variant", *(cell for column in columns for cell in (column, "difference")))
        rows = [
            [title, *(cell for column in columns for cell in _cells(one, column))]
            for title, one in group["variants"].items()
        ]
        lines = [f"{name}:", _table(head, rows)] if rows else [f"{name}:"]
        lines += [f"{title} was left out: {why}" for title, why in group["left_out"].items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cells(one: dict[str, Any], column: str) -> tuple[str, str]:
    """Return a variant's figure with its interval, and its difference from the group's first."""
    figure, difference = one["figures"][column], one.get("differences", {}).get(column)
    told = f"{number(figure['value'])} ({interval(figure)})"
    if difference is None:
        return told, ""
    low, high = difference["low"], difference["high"]
    sure = low is not None and (low > 0 or high < 0)
    return told, f"{signed(difference['difference'])}{'*' if sure else ''}"
