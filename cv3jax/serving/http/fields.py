"""Readers of the values of parameters, from JSON or from a form.

A reader returns the value as Python has it, or raises ValueError with what would be right.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

from cv3jax.adapters.given import MOST as MOST_LORAS
from cv3jax.adapters.given import MOST_WEIGHT
from cv3jax.cascade.sizes import MAX_SIDE, Size
from data_pipeline.io.bounded_json import RECORDS, parse_json

Reader = Callable[[Any], Any]
# readers say of a number that is out of range what would be right
_LIMITS = dataclasses.replace(RECORDS, digits=4000)
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def whole(low: int, high: int) -> Reader:
    """Return a reader of whole numbers in low..high."""

    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"give a whole number in {low}..{high}")
        return value

    return read


def number(low: float, high: float) -> Reader:
    """Return a reader of numbers in low..high."""

    def read(value: Any) -> float:
        # a whole number may be too large for a float
        fine = type(value) in (int, float) and low <= value <= high
        if not fine or not math.isfinite(value):
            raise ValueError(f"give a number in {low:g}..{high:g}")
        return float(value)

    return read


def pair(one: Reader) -> Reader:
    """Return a reader of one value, or of a list of two for base and relay; it gives (base, relay).

    A null in the list is None, the checkpoint's own.
    """

    def read(value: Any) -> tuple[Any, Any]:
        values = value if isinstance(value, list) else [value]
        if len(values) not in (1, 2):
            raise ValueError("give one value, or [base, relay]")
        made = [None if each is None else one(each) for each in values]
        return made[0], made[-1]

    return read


def choice(*names: str) -> Reader:
    """Return a reader of one of these words."""

    def read(value: Any) -> str:
        if value not in names or not isinstance(value, str):
            raise ValueError(f"give {' or '.join(names)}")
        return value

    return read


def text(most: int) -> Reader:
    """Return a reader of texts of at most so many characters."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or len(value) > most:
            raise ValueError(f"give a text of at most {most} characters")
        try:
            value.encode()
        except UnicodeEncodeError as e:  # half of a surrogate pair, which JSON can write
            raise ValueError("give a text of valid Unicode") from e
        return value

    return read


def loras(value: Any) -> tuple[tuple[str, float], ...]:
    """Return (name, weight) of each adapter, of a list of {"name", "weight"}; the weight is 1."""
    right = f'give a list of at most {MOST_LORAS} objects such as {{"name": "teal", "weight": 0.8}}'
    if not isinstance(value, list) or len(value) > MOST_LORAS:
        raise ValueError(right)
    found = {}
    for one in value:
        if not isinstance(one, dict):
            raise ValueError(right)
        if unknown := sorted(one.keys() - {"name", "weight"}):
            raise ValueError(f"{unknown[0][:60]!r} is neither name nor weight; {right}")
        if "name" not in one:
            raise ValueError(f"an object has no name; {right}")
        name = text(200)(one["name"])
        if name in found:
            raise ValueError(f"{name[:60]!r} is there twice")
        try:
            found[name] = number(-MOST_WEIGHT, MOST_WEIGHT)(one.get("weight", 1))
        except ValueError as e:
            raise ValueError(f"the weight of {name[:60]!r}: {e}") from e
    return tuple(found.items())


def boolean(value: Any) -> bool:
    """Return a truth value."""
    if not isinstance(value, bool):
        raise ValueError("give true or false")
    return value


def size(value: Any) -> Size | None:
    """Return the size written as WIDTHxHEIGHT, as OpenAI's API has it; "auto" is None."""
    if value == "auto":
        return None
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    sides = (int(found[2]), int(found[1])) if found else (0, 0)
    if not all(1 <= side <= MAX_SIDE for side in sides):
        raise ValueError(
            f'give "auto" or "WIDTHxHEIGHT", such as "768x512" (width first), in 1..{MAX_SIDE}'
        )
    return Size(*sides)


def written(of: Size) -> str:
    """Return a size as OpenAI's API writes it, width first."""
    return f"{of.width}x{of.height}"


def from_form(value: str) -> Any:
    """Return the value that a form's text stands for: a number, a truth value, a list or itself."""
    if value in ("true", "false") or value[:1] in "-0123456789[":
        try:
            return read_json(value)
        except ValueError:
            return value
    return value


def read_json(data: str | bytes) -> Any:
    """Return what JSON says. Raises ValueError, also on names given twice and on NaN."""
    return parse_json(data, _LIMITS, surrogates=True)
