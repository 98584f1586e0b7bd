"""One value of a foreign field → the text, number or tag that it says, whatever its type."""

import decimal
import math
import re
import unicodedata
from typing import Any

from data_pipeline.sources.texts import decode_text, tidy

MAX_URL = 8192  # characters
_MAX_LABEL = 256  # characters of a tag
# how tables write that there is no value
_NOTHING = frozenset(("", "nan", "null", "none", "<na>", "na", "n/a", "nil", "\\n"))
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_NESTED = re.compile(r"[\[{]|b['\"]")  # how Python or JSON writes a list, an object or bytes
_WORDS = {"true": True, "false": False}
_SAME_TAG = {"true": "nsfw", "yes": "nsfw", "1": "nsfw", "false": "sfw", "no": "sfw", "0": "sfw"}


class UnreadableError(ValueError):
    """A value that is there and cannot be understood."""


def is_absent(value: Any) -> bool:
    """Whether there is no value at all."""
    if isinstance(value, float | decimal.Decimal):
        return math.isnan(value)
    if isinstance(value, str):
        return not tidy(value)
    return value is None or value in (b"", [], {})


def says_nothing(value: Any) -> bool:
    """Whether a text says that there is no value, as tables do."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return isinstance(value, str) and tidy(value).lower() in _NOTHING


def read_text(value: Any) -> str:
    """A text, tidied.

    Raises:
        ValueError: not a text.
    """
    if isinstance(value, bytes):
        return tidy(decode_text(value))
    if not isinstance(value, str):
        raise UnreadableError("not a text")
    text = tidy(value)
    if "\0" in text:
        raise UnreadableError("NULs within")
    text.encode()  # JSON may hold half a surrogate pair
    return text


def is_number(text: str) -> bool:
    """Whether a text is a number, with a point or a comma."""
    return bool(_NUMBER.fullmatch(text))


def read_url(value: Any) -> str:
    """The whole of a URL. Raises ValueError where it is none, or too long to keep."""
    text = read_text(value)
    if len(text) > MAX_URL:  # cut, a blocked source behind the cut would pass
        raise UnreadableError("too long")
    return text


def read_label(value: Any) -> str:
    """A tag, without characters that show nothing. Raises ValueError where it is none."""
    text = unicodedata.normalize("NFKC", read_text(value))
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    if len(text) > _MAX_LABEL or not text.isprintable() or _NESTED.match(text):
        raise UnreadableError("not a tag")
    return text


def read_nsfw(value: Any) -> str:
    """LAION's tag, or NSFW and SFW for yes and no. Raises ValueError: a score is no tag."""
    if not isinstance(value, bool | int | float | decimal.Decimal):
        value = read_label(value)
        if not is_number(value):
            return value
        value = read_number(value)
    if value not in (0, 1):
        raise UnreadableError("not a tag")
    return "NSFW" if value else "SFW"


def plain_tags(text: str) -> frozenset[str]:
    """The tags of a text, parted by commas, semicolons or bars, in one spelling."""
    tags = (tag.strip().casefold() for tag in re.split(r"[,;|]", text))
    return frozenset(_SAME_TAG.get(tag, tag) for tag in tags if tag)


def read_number(value: Any) -> float:
    """A finite number, from a number or a text of one; a comma may stand for its point.

    Raises:
        ValueError: not a number.
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
    """A probability, 0..1; yes and no are 1 and 0. Raises ValueError where it is none."""
    if isinstance(value, str | bytes):
        value = _WORDS.get(read_text(value).lower(), value)
    number = float(value) if isinstance(value, bool) else read_number(value)
    if not -1e-3 <= number <= 1.001:  # -1 for none, or percent
        raise UnreadableError("not in 0..1")
    return number


def plain_number(value: Any) -> float | int | None:
    """A number under a name that means nothing to us, as it is."""
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e300 else None
