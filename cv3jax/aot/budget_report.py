"""The table of `cv3jax plan`: chip-hours, days and money of each recipe, and of all of them."""

from typing import Any, NamedTuple

from cv3jax.aot.budget import Cost, chip_hours
from cv3jax.distributed.chips import Chip

HEAD = (
    "recipe",
    "updates",
    "images",
    "train PFLOP",
    "encoders PFLOP",
    "images/s",
    "chip-hours",
    "days",
    "with cached text",
    "days",
    "fits",
    "bound on MFU",
)
SUMMARY = (
    "all recipes on",
    "MFU, assumed",
    "chip-hours",
    "days",
    "price",
    "with cached text",
    "days",
    "price",
)


class Hardware(NamedTuple):
    """What is planned for: chips of one kind, an MFU that is assumed, and a price.

    Attributes:
        name: the topology.
        chip: its kind.
        count: how many.
        mfu: of all programs, 0..1.
        price: of one chip for one hour, in any currency; None: none is given.
    """

    name: str
    chip: Chip
    count: int
    mfu: float
    price: float | None = None

    def hours(self, flops: float) -> float:
        """Return the chip-hours of so many FLOPs."""
        return chip_hours(flops, self.chip, self.mfu)

    def days(self, hours: float) -> float:
        """Return the days that all chips take for so many chip-hours."""
        return hours / self.count / 24


class Texts(NamedTuple):
    """The text features of a dataset, each computed once: records, FLOPs and bytes in all."""

    records: int
    flops: float
    bytes: float


def figures(costs: list[Cost], where: Hardware, texts: Texts) -> dict[str, Any]:
    """Return chip-hours and days by recipe and in all, with text encoded online and cached."""
    rows = {}
    for one in costs:
        online, cached = (where.hours(one.train + one.encoders - less) for less in (0.0, one.text))
        rows[one.recipe] = {
            "images_per_second": one.seen / (3600 * online / where.count),
            "chip_hours": online,
            "days": where.days(online),
            "chip_hours_cached_text": cached,
            "days_cached_text": where.days(cached),
        }
    once = where.hours(texts.flops)
    online = sum(row["chip_hours"] for row in rows.values())
    cached = sum(row["chip_hours_cached_text"] for row in rows.values()) + once
    price = where.price
    return {
        "topology": where.name,
        "chips": where.count,
        "mfu": where.mfu,
        "recipes": rows,
        "chip_hours": online,
        "days": where.days(online),
        "price": None if price is None else price * online,
        "cached_text": {
            "records": texts.records,
            "chip_hours_once": once,
            "bytes": texts.bytes,
            "chip_hours": cached,
            "days": where.days(cached),
            "price": None if price is None else price * cached,
        },
    }


def text(costs: list[Cost], where: Hardware, texts: Texts) -> str:
    """Return the page of one topology: a Markdown table, and what it assumes."""
    found = figures(costs, where, texts)
    rows = []
    for one in costs:
        row = found["recipes"][one.recipe]
        rows.append(
            (
                one.recipe,
                f"{one.updates:,}",
                f"{one.images:,}",
                f"{one.train / one.updates / 1e15:.3g}",
                f"{one.encoders / one.updates / 1e15:.3g}",
                f"{row['images_per_second']:,.0f}",
                f"{row['chip_hours']:,.0f}",
                f"{row['days']:,.1f}",
                f"{row['chip_hours_cached_text']:,.0f}",
                f"{row['days_cached_text']:,.1f}",
                {True: "yes", False: "no", None: "not compiled"}[one.fits],
                "–" if one.bound is None else f"{one.bound:.0%}",
            )
        )
    cached = found["cached_text"]
    blank = ("",) * 5
    once = cached["chip_hours_once"]
    by = (f"{once:,.0f}", f"{where.days(once):,.1f}")
    rows.append((f"text of {texts.records:,} records, once", *blank, "–", "–", *by, "", ""))
    by = (found["chip_hours"], found["days"], cached["chip_hours"], cached["days"])
    sums = (f"**{x:,.{number % 2}f}**" for number, x in enumerate(by))
    rows.append(("**all**", *blank, *sums, "", ""))
    seen = sum(one.seen for one in costs)
    lines = [
        f"{where.name}: {where.count:,} × {where.chip.title}, at {where.mfu:.0%} MFU, which is"
        " assumed",
        "",
        _table(rows),
        "",
        f"{seen:,} images are seen in all. Text features of {texts.records:,} records take"
        f" {texts.bytes / 1e12:,.1f} TB.",
    ]
    if where.price is not None:
        lines.append(
            f"At {where.price:g} a chip-hour: {found['price']:,.0f} with text encoded online,"
            f" {cached['price']:,.0f} with cached text."
        )
    return "\n".join(lines)


def summary(plans: list[dict[str, Any]]) -> str:
    """Return a Markdown table of all topologies, one row each, from what `figures` returns."""
    rows = []
    for plan in plans:
        cells = [plan["topology"], f"{plan['mfu']:.0%}"]
        for one in (plan, plan["cached_text"]):
            price = "–" if one["price"] is None else f"{one['price']:,.0f}"
            cells += [f"{one['chip_hours']:,.0f}", f"{one['days']:,.1f}", price]
        rows.append(tuple(cells))
    return _table(rows, SUMMARY)


def _table(rows: list[tuple[str, ...]], head: tuple[str, ...] = HEAD) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: tuple[str, ...]) -> str:
        filled = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(filled)} |"

    return "\n".join([line(head), line(tuple("-" * width for width in widths)), *map(line, rows)])
