"""The fields that a source gives for an image, read alike whatever kind of source it is.

A field is found under any of the names that sources use for it, in upper or lower case. It is read
from every type that can express its value: text with or without a byte-order mark or as bytes;
numbers as floats, decimals or text; a list of one value. A value that is there and cannot be
understood is neither a value nor missing but unreadable: the item carries its name, so that no
filter takes it for missing without saying so.
"""

import dataclasses
import decimal
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from data_pipeline.sources.texts import tidy
from data_pipeline.sources.values import (
    UnreadableError,
    is_absent,
    is_number,
    plain_number,
    read_label,
    read_nsfw,
    read_number,
    read_share,
    read_text,
    read_url,
    says_nothing,
)

_SHOWN, _MOST = 60, 256  # characters of an example that are shown; scores that are kept


@dataclasses.dataclass(frozen=True)
class Fields:
    """The fields that a source gives for one image.

    Attributes:
        url: where the image came from, or empty.
        captions: all captions; the first is the one to use.
        scores: numbers and tags under the source's names.
        unreadable: field → the name and the value that could not be understood.
    """

    url: str = ""
    captions: tuple[str, ...] = ()
    scores: dict[str, float | str] = dataclasses.field(default_factory=dict)
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)


@functools.lru_cache(4096)
def plain_name(name: Any) -> str:
    """Return one spelling of a field's name: lower case, trimmed, with underscores."""
    return re.sub(r"[\s-]+", "_", tidy(str(name)).lower())


def present(raw: Mapping[str, Any], names: Iterable[str]) -> list[Any]:
    """Return the values under the first of `names` that has any; a list gives its elements.

    Upper and lower case are the same.
    """
    for wanted in names:
        found = [
            v for name, value in raw.items() if plain_name(name) == wanted for v in _each(value)
        ]
        if found:
            return found
    return []


def _each(value: Any) -> list[Any]:
    """Return the values that are present in a value or a list of values."""
    values = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if not is_absent(each)]


def read_fields(raw: Mapping[str, Any]) -> Fields:
    """Return all fields that filters and records use, and the numbers under other names."""
    values: dict[str, list[Any]] = {}
    spelled: dict[str, str] = {}
    for name, value in raw.items():
        values.setdefault(plain := plain_name(name), []).extend(_each(value))
        spelled.setdefault(plain, tidy(str(name))[:64])
    scores: dict[str, float | str] = {}
    url, unreadable = "", {}
    for field, (names, read) in FIELDS.items():
        for name in names:
            given = [v for v in values.get(name, ()) if not says_nothing(v)]
            if not given:
                continue
            try:
                value = _one(given, read)
            except ValueError:
                unreadable.setdefault(field, _shown(spelled[name], given))
                continue
            if field != "url":
                scores[spelled[name]] = value
            else:
                url = url or value
    captions, wrong = _captions(values, spelled)
    for name, value in list(raw.items())[:_MOST]:
        plain, number = plain_name(name), plain_number(value)
        measured = plain.endswith(("width", "height"))
        if number is not None and plain not in KNOWN and not measured:
            scores[str(name)[:64]] = number
    return Fields(url, captions, scores, unreadable | wrong)


def _captions(
    values: Mapping[str, list[Any]], spelled: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return (the captions, {"caption": what could not be read} or nothing)."""
    for name in CAPTIONS:
        if given := values.get(name):
            try:
                return tuple(dict.fromkeys(text for v in given if (text := read_text(v)))), {}
            except ValueError:
                return (), {"caption": _shown(spelled[name], given)}
    return (), {}


def _one(given: list[Any], read: Callable[[Any], Any]) -> Any:
    """Return the single value of `given`. Raises ValueError where they differ or cannot be read."""
    read_values = set(map(read, given))
    if len(read_values) > 1:
        raise UnreadableError("several values")
    return read_values.pop()


def _shown(name: str, given: list[Any]) -> str:
    """Return a name and its values, shortened, as printable text."""
    values = ", ".join(ascii(v[:_SHOWN] if isinstance(v, str | bytes) else v) for v in given[:4])
    short = values if len(values) <= _SHOWN else f"{values[:_SHOWN]}..."
    return f"{name.encode(errors='backslashreplace').decode()} = {short}"


def from_cell(name: str, text: str) -> str | float:
    """Return a cell of a .csv as a number where it is one and `read_fields` does not know its name.

    A .csv has no types, so every cell arrives as text.
    """
    cell = tidy(text)
    number = plain_name(name) not in KNOWN and is_number(cell) and "," not in cell
    return float(cell) if number else text


# field → (the names that sources use for it, how its value is read). The names are those of LAION,
# its aesthetic subsets, DataComp, img2dataset and Hugging Face; the first that is present counts.
FIELDS: dict[str, tuple[tuple[str, ...], Callable[[Any], Any]]] = {
    "url": (("url", "image_url"), read_url),
    "nsfw": (("nsfw",), read_nsfw),
    "unsafe": (("punsafe", "nsfw_score", "unsafe"), read_share),
    "watermark": (("pwatermark", "watermark", "watermark_score"), read_share),
    "aesthetic": (("aesthetic", "aesthetic_score", "aesthetics"), read_number),
    "similarity": (("similarity",), read_number),
    "language": (("language",), read_label),
    "license": (("license",), read_label),
}
CAPTIONS = ("caption", "captions", "txt", "text")
FILES = ("file_name", "image", "filename", "path")  # a table's column of image names
KEYS = ("key", "__key__")
KNOWN = frozenset(
    (*CAPTIONS, *FILES, *KEYS, *(name for names, _ in FIELDS.values() for name in names))
)
FILTERED = ("url", "nsfw", "unsafe", "watermark", "aesthetic")  # the fields that filters use


def names_of(field: str) -> tuple[str, ...]:
    """Return the names that sources use for a field."""
    return FIELDS[field][0]


def value_of(scores: Mapping[str, float | str], field: str) -> float | str | None:
    """Return a field's value among the scores that `read_fields` returned, or None."""
    plain = {plain_name(name): value for name, value in scores.items()}
    return next((plain[name] for name in names_of(field) if name in plain), None)


def states(
    url: str, scores: Mapping[str, float | str], unreadable: Mapping[str, str]
) -> dict[str, str]:
    """Return {field: "unreadable", "read" or "missing"} for each of FILTERED."""

    def state(field: str) -> str:
        if field in unreadable:
            return "unreadable"
        there = url if field == "url" else value_of(scores, field) is not None
        return "read" if there else "missing"

    return {field: state(field) for field in FILTERED}


def same_key(value: Any) -> str | None:
    """Return a key on which rows are joined: the same for 12, 12.0, "12" and [12].

    None where the value cannot be a key.
    """
    try:
        texts = set(map(_key, _each(value)))
    except (ValueError, OverflowError):
        return None
    return texts.pop() if len(texts) == 1 else None


def _key(value: Any) -> str:
    """Return a number or a text as the text of a key."""
    if isinstance(value, float | decimal.Decimal) and value == int(value):
        value = int(value)
    return str(value) if isinstance(value, int | float | decimal.Decimal) else read_text(value)
