"""Reading one value of a foreign field, of any type, as a text, a number or a tag."""

import decimal
import math
import re
import unicodedata
from typing import Any

from data_pipeline.sources.texts import decode_text, tidy

MAX_URL = 8192  # characters
_MAX_LABEL = 256  # characters of a tag
# how tables express a missing value
_NOTHING = frozenset(("", "nan", "null", "none", "<na>", "na", "n/a", "nil", "\\n"))
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_NESTED = re.compile(r"[\[{]|b['\"]")  # how Python or JSON prints a list, an object or bytes
_WORDS = {"true": True, "false": False}
_SAME_TAG = {"true": "nsfw", "yes": "nsfw", "1": "nsfw", "false": "sfw", "no": "sfw", "0": "sfw"}


class UnreadableError(ValueError):
    """A value is present but cannot be understood."""


def is_absent(value: Any) -> bool:
    """Return whether there is no value at all."""
    if isinstance(value, float | decimal.Decimal):
        return math.isnan(value)
    if isinstance(value, str):
        return not tidy(value)
    return value is None or value in (b"", [], {})


def says_nothing(value: Any) -> bool:
    """Return whether a text says that the value is missing, as tables do."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return isinstance(value, str) and tidy(value).lower() in _NOTHING


def read_text(value: Any) -> str:
    """Return a text, tidied.

    Raises:
        ValueError: the value is not text.
    """
    if isinstance(value, bytes):
        return tidy(decode_text(value))
    if not isinstance(value, str):
        raise UnreadableError("not text")
    text = tidy(value)
    if "\0" in text:
        raise UnreadableError("contains NULs")
    text.encode()  # raises on half a surrogate pair, which JSON may hold
    return text


def is_number(text: str) -> bool:
    """Return whether a text is a number, with a point or a comma."""
    return bool(_NUMBER.fullmatch(text))


def read_url(value: Any) -> str:
    """Return the whole of a URL. Raises ValueError where it is not text, or is too long to keep."""
    text = read_text(value)
    if len(text) > MAX_URL:  # if it were cut, a blocked source in the rest would pass
        raise UnreadableError("too long")
    return text


def read_label(value: Any) -> str:
    """Return a tag without invisible characters. Raises ValueError where the value is not a tag."""
    text = unicodedata.normalize("NFKC", read_text(value))
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    if len(text) > _MAX_LABEL or not text.isprintable() or _NESTED.match(text):
        raise UnreadableError("not a tag")
    return text


def read_nsfw(value: Any) -> str:
    """Return LAION's tag, or NSFW and SFW for yes and no.

    Raises ValueError where the value is not a tag; a score is not one.
    """
    if not isinstance(value, bool | int | float | decimal.Decimal):
        value = read_label(value)
        if not is_number(value):
            return value
        value = read_number(value)
    if value not in (0, 1):
        raise UnreadableError("not a tag")
    return "NSFW" if value else "SFW"


def plain_tags(text: str) -> frozenset[str]:
    """Return the tags of a text in one spelling; commas, semicolons or bars separate them."""
    tags = (tag.strip().casefold() for tag in re.split(r"[,;|]", text))
    return frozenset(_SAME_TAG.get(tag, tag) for tag in tags if tag)


def read_number(value: Any) -> float:
    """Return a finite number from a number or its text, in which a comma may be the decimal point.

    Raises:
        ValueError: the value is not a number.
    """
    if isinstance(value, bool):
        raise UnreadableError("not a number")
    if not isinstance(value, int | float | decimal.Decimal):
        text = unicodedata.normalize("NFKC", read_text(value))
        if not is_number(text):
            raise UnreadableError("not a number")
        value = text.replace(",", ".")
    try:
        number = float(value)
    except OverflowError as e:
        raise UnreadableError("too large") from e
    if not abs(number) < 1e300:
        raise UnreadableError("not finite")
    return number


def read_share(value: Any) -> float:
    """Return a probability in 0..1; yes and no are 1 and 0.

    Raises ValueError where the value is not a probability.
    """
    if isinstance(value, str | bytes):
        value = _WORDS.get(read_text(value).lower(), value)
    number = float(value) if isinstance(value, bool) else read_number(value)
    if not -1e-3 <= number <= 1.001:  # such as -1 for a missing value, or percent
        raise UnreadableError("not in 0..1")
    return number


def plain_number(value: Any) -> float | int | None:
    """Return a number of a field with an unknown name as it is; None for anything else."""
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e300 else None
