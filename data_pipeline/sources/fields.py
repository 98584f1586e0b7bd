"""What a source says about an image, read alike from tars, parquet, tables and folders.

A field is found under the names that sources give it, in any case, and read from any type that says
the same: text as it is, with a byte-order mark or as bytes; numbers as floats, decimals or text; a
list of one. What is there and cannot be understood is neither a value nor missing but unreadable:
it is named, and travels with its image, so that no filter takes it for missing without a word.
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

_SHOWN, _MOST = 60, 256  # characters of an example; scores kept


@dataclasses.dataclass(frozen=True)
class Fields:
    """What a source says about one image.

    Attributes:
        url: where it came from, or empty.
        captions: all that it has, the one to be taken first.
        scores: numbers and tags under the source's names.
        unreadable: field → the name and the value that could not be understood.
    """

    url: str = ""
    captions: tuple[str, ...] = ()
    scores: dict[str, float | str] = dataclasses.field(default_factory=dict)
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)


@functools.lru_cache(4096)
def plain_name(name: Any) -> str:
    """One spelling of a field's name: lower case, nothing around it, one kind of dash."""
    return re.sub(r"[\s-]+", "_", tidy(str(name)).lower())


def present(raw: Mapping[str, Any], names: Iterable[str]) -> list[Any]:
    """The values under the first of `names` that has any, in whatever case; a list's one by one."""
    for wanted in names:
        found = [
            v for name, value in raw.items() if plain_name(name) == wanted for v in _each(value)
        ]
        if found:
            return found
    return []


def _each(value: Any) -> list[Any]:
    values = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if not is_absent(each)]


def read_fields(raw: Mapping[str, Any]) -> Fields:
    """Reads all fields that filters and records go by, and the numbers under other names."""
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
    for name in CAPTIONS:
        if given := values.get(name):
            try:
                return tuple(dict.fromkeys(text for v in given if (text := read_text(v)))), {}
            except ValueError:
                return (), {"caption": _shown(spelled[name], given)}
    return (), {}


def _one(given: list[Any], read: Callable[[Any], Any]) -> Any:
    read_values = set(map(read, given))
    if len(read_values) > 1:
        raise UnreadableError("several values")
    return read_values.pop()


def _shown(name: str, given: list[Any]) -> str:
    values = ", ".join(ascii(v[:_SHOWN] if isinstance(v, str | bytes) else v) for v in given[:4])
    short = values if len(values) <= _SHOWN else f"{values[:_SHOWN]}..."
    return f"{name.encode(errors='backslashreplace').decode()} = {short}"


def from_cell(name: str, text: str) -> str | float:
    """A cell of a csv, which has no types: as a number where it is one, unless `read_fields` knows
    its name.
    """
    cell = tidy(text)
    number = plain_name(name) not in KNOWN and is_number(cell) and "," not in cell
    return float(cell) if number else text


# field → the names sources give it (LAION's own, its aesthetic subsets', DataComp's, img2dataset's,
# Hugging Face's), the first that is there counts; and how its value is read
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
FILES = ("file_name", "image", "filename", "path")  # of a table: the image's name
KEYS = ("key", "__key__")
KNOWN = frozenset(
    (*CAPTIONS, *FILES, *KEYS, *(name for names, _ in FIELDS.values() for name in names))
)
FILTERED = ("url", "nsfw", "unsafe", "watermark", "aesthetic")  # those that a filter goes by


def names_of(field: str) -> tuple[str, ...]:
    return FIELDS[field][0]


def value_of(scores: Mapping[str, float | str], field: str) -> float | str | None:
    """A filter's field among the scores that `read_fields` gave."""
    plain = {plain_name(name): value for name, value in scores.items()}
    return next((plain[name] for name in names_of(field) if name in plain), None)


def states(
    url: str, scores: Mapping[str, float | str], unreadable: Mapping[str, str]
) -> dict[str, str]:
    """Each of FILTERED → "unreadable", "read" or "missing"."""

    def state(field: str) -> str:
        if field in unreadable:
            return "unreadable"
        there = url if field == "url" else value_of(scores, field) is not None
        return "read" if there else "missing"

    return {field: state(field) for field in FILTERED}


def same_key(value: Any) -> str | None:
    """What rows are joined on: 12, 12.0, "12" and [12] are the same. None where it is no key."""
    try:
        texts = set(map(_key, _each(value)))
    except (ValueError, OverflowError):
        return None
    return texts.pop() if len(texts) == 1 else None


def _key(value: Any) -> str:
    if isinstance(value, float | decimal.Decimal) and value == int(value):
        value = int(value)
    return str(value) if isinstance(value, int | float | decimal.Decimal) else read_text(value)
