"""Tables of the fields that programs keep in files for themselves: type, range and meaning of each.

What is kept is compared with what is asked, and most of it with nothing else. A field that is used
as it stands is checked by its table first.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Kept(NamedTuple):
    """A field: what it means, what is right, and whether a value is."""

    meaning: str
    right: str
    fits: Callable[[Any], bool]


Table = Mapping[str, Kept]


def wrong(value: Any, table: Table) -> str | None:
    """Return what is wrong with the first field that breaks its rule or is missing, or None."""
    if not isinstance(value, dict):
        return "it is no object"
    for name, field in table.items():
        if name not in value:
            return f"it has no {name}"
        if not field.fits(value[name]):
            return f"{name} is {str(value[name])[:40]!r}, but must be {field.right}"
    return None


def whole(meaning: str, low: int, high: int) -> Kept:
    """Return the field of a whole number from `low` to `high`."""
    return Kept(meaning, f"{low}..{high}", lambda n: type(n) is int and low <= n <= high)


def number(meaning: str, low: float, high: float) -> Kept:
    """Return the field of a finite number from `low` to `high`."""

    def fits(n: Any) -> bool:
        return type(n) in (int, float) and math.isfinite(n) and low <= n <= high

    return Kept(meaning, f"a number in {low:g}..{high:g}", fits)


def text(meaning: str, most: int = 1000) -> Kept:
    """Return the field of a text of at most so many characters."""
    return Kept(meaning, "a text", lambda t: isinstance(t, str) and len(t) <= most)


def one_of(meaning: str, *values: Any) -> Kept:
    """Return the field of one of some values of the same types."""
    listed = ", ".join(str(value) for value in values)
    return Kept(
        meaning, f"one of {listed}", lambda v: any(type(v) is type(w) and v == w for w in values)
    )


def several(meaning: str, each: Kept, least: int, most: int) -> Kept:
    """Return the field of a list of values of one kind."""
    right = f"a list of {least}..{most} values, each {each.right}"
    return Kept(
        meaning,
        right,
        lambda v: isinstance(v, list) and least <= len(v) <= most and all(map(each.fits, v)),
    )


def section(meaning: str, table: Table, *, none: bool = False) -> Kept:
    """Return the field of an object with fields of its own. none: it may be missing or null."""

    def fits(value: Any) -> bool:
        return value is None if none and value is None else wrong(value, table) is None

    return Kept(meaning, f"an object of {', '.join(table)}{' or null' if none else ''}", fits)


def anything(meaning: str) -> Kept:
    """Return the field whose value is only compared."""
    return Kept(meaning, "anything", lambda value: True)
