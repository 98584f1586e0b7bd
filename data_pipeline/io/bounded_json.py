"""JSON from outside within limits: the one place of both packages that parses it.

Deep nesting, huge integers, NaN, names given twice and files of any size end in a ParseError, whose
message is one line. tests/system/test_parsers.py finds other calls of a JSON or YAML parser.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.io.errors import first_line
from data_pipeline.io.regular_files import open_regular

Pairs = Sequence[tuple[str, Any]]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a text may hold; each number is the largest allowed.

    Attributes:
        bytes: bytes of the text, or characters where it is decoded already.
        depth: lists and objects within each other.
        values: values, and names of objects.
        text: characters of one text.
        digits: digits of an integer. With 300 it is still in the range of a float.
    """

    bytes: int = 2**20
    depth: int = 32
    values: int = 100_000
    text: int = 2**20
    digits: int = 40  # transformers writes one of 31 for no largest length


SETTINGS = Limits()  # what people write
RECORDS = Limits(2**26, 100, 10**7, 2**26, 300)  # rows of data, answers, and small files of runs
OWN = Limits(
    2**31, 100, 10**9, 2**31, 300
)  # what a run keeps for itself, which grows with the data


class ParseError(ValueError):
    """A text is no JSON or YAML within the limits. The message is one line about what is wrong."""


def read_bytes(path: str | Path, most: int) -> bytes:
    """Return the bytes of a file, at most `most`. Raises OSError, ParseError."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ParseError(f"it has more than {most:,} bytes")
    return data


def load_json(path: str | Path, limits: Limits = RECORDS, *, nan: bool = False) -> Any:
    """Return the content of a JSON file. Raises OSError, ParseError. nan: as for `parse_json`."""
    return parse_json(read_bytes(path, limits.bytes), limits, nan=nan)


def parse_json(
    data: bytes | str,
    limits: Limits = RECORDS,
    *,
    nan: bool = False,
    surrogates: bool = False,
    join: Callable[[Pairs], dict[str, Any]] | None = None,
) -> Any:
    """Return what JSON says, in any Unicode encoding.

    Args:
        data: the text.
        limits: what it may hold.
        nan: allow NaN and infinities, which Python's own `json.dumps` writes.
        surrogates: allow texts with half of a surrogate pair, which cannot be encoded.
        join: makes an object of its names and values; None: refuse a name that is given twice.

    Raises:
        ParseError: it is not JSON, or exceeds a limit.
    """
    if len(data) > limits.bytes:
        raise ParseError(f"it has more than {limits.bytes:,} bytes")
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        value = _decoder(limits.digits, nan, join or _once).decode(text)
    except ParseError:
        raise
    except RecursionError as e:
        raise ParseError(_deep(limits)) from e
    except ValueError as e:
        raise ParseError(first_line(e)) from e
    # bounds that cost nothing; most texts need no walk
    opened = text.count("[") + text.count("{")
    if opened > limits.depth or 2 * (text.count(",") + opened) + 1 > limits.values:
        check_tree(value, limits)
    if len(text) > limits.text or (not surrogates and "\\u" in text):
        _check_texts(value, limits, surrogates)
    return value


@functools.lru_cache(maxsize=64)  # making one takes as long as parsing a short line
def _decoder(digits: int, nan: bool, join: Callable[[Pairs], dict[str, Any]]) -> json.JSONDecoder:
    hooks = {} if nan else {"parse_float": _finite, "parse_constant": _no_number}

    def integer(text: str) -> int:
        return int(_few(text, digits))

    return json.JSONDecoder(object_pairs_hook=join, parse_int=integer, **hooks)


def check_tree(value: Any, limits: Limits) -> None:
    """Raise ParseError where parsed lists and dicts are too deep or have too many values."""
    level, count, depth = [value], 1, 0
    while level:
        inner = [each for each in level if isinstance(each, (dict, list))]
        depth += bool(inner)
        if depth > limits.depth:
            raise ParseError(_deep(limits))
        names = sum(len(each) for each in inner if isinstance(each, dict))
        level = [
            one for each in inner for one in (each.values() if isinstance(each, dict) else each)
        ]
        count += names + len(level)
        if count > limits.values:
            raise ParseError(f"it has more than {limits.values:,} values")


def _check_texts(value: Any, limits: Limits, surrogates: bool) -> None:
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list):
            left += each
        elif isinstance(each, str):
            check_text(each, limits)
            if not surrogates and not each.isascii():
                try:
                    each.encode()
                except UnicodeEncodeError as e:
                    raise ParseError("it has half of a surrogate pair in it") from e


def check_text(text: str, limits: Limits) -> None:
    """Raise ParseError where a text is too long."""
    if len(text) > limits.text:
        raise ParseError(f"a text in it has more than {limits.text:,} characters")


def _once(pairs: Pairs) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ParseError(twice(name))
            seen.add(name)
    return found


def twice(name: Any) -> str:
    """Return the message that a name is given twice."""
    return f"{str(name)[:40]!r} is given twice"


def _deep(limits: Limits) -> str:
    return f"it is nested more than {limits.depth} deep"


def _few(digits: str, most: int) -> str:
    if len(digits) > most:
        raise ParseError(f"a number in it has more than {most} digits: {digits[:20]}…")
    return digits


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ParseError(f"{text[:40]} is too large for a number")
    return value


def _no_number(name: str) -> None:
    raise ParseError(f"{name} is no number")
