"""Decoding the bytes of foreign text files, and removing what is invisible around a text.

The encoding follows from the byte-order mark.
"""

import codecs
import unicodedata
from collections.abc import Iterator, Sequence
from typing import IO, Any

from data_pipeline.io import bounded_json

_MARKS = (  # UTF-32 first: its little-endian mark begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
# characters around a text that are not part of it: white space, byte-order marks, zero-width
# spaces, NULs for padding
_AROUND = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff\u200b\u2060\0"
_BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # letters and symbols that are invisible
_UNSEEN = ("C", "Z", "M")  # categories: controls, formats, separators, marks without a letter


class TextError(ValueError):
    """Bytes are not text. The message says what they are and what would be right."""


def encoding_of(start: bytes) -> str:
    """Return the codec of a file by its first four bytes; UTF-8 where it has no byte-order mark."""
    return next((codec for mark, codec in _MARKS if start.startswith(mark)), "utf-8")


def decode_text(data: bytes) -> str:
    """Return the text of a whole file, or of a field of bytes.

    Raises:
        TextError: the bytes are neither UTF-8 nor marked as UTF-16 or UTF-32, or have NULs within.
    """
    codec = encoding_of(data[:4])
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as e:
        raise TextError(not_text(codec, f"byte {e.start}")) from e
    if "\0" in tidy(text):
        raise TextError(HAS_NULS)
    return text


HAS_NULS = "it contains NULs and may be UTF-16 without a byte-order mark; convert it to UTF-8"


def not_text(codec: str, where: str) -> str:
    """Return the message that a file is not valid in its encoding, and how to convert it."""
    name = codec.removesuffix("-sig").upper()
    return (
        f"it is not {name} ({where}); convert it, for example with: iconv -f cp1252 -t utf-8 OLD >"
        " NEW"
    )


def tidy(text: str) -> str:
    """Return a text without what is invisible around it; empty where nothing of it is visible."""
    inside = text.strip(_AROUND)
    return inside if any(map(_shows, inside)) else ""


def _shows(character: str) -> bool:
    """Return whether a character is visible."""
    category = unicodedata.category(character)
    # unassigned and private characters may be visible in another font or a later Unicode; half a
    # surrogate pair is damage, which must not be hidden here
    return (
        category in ("Cn", "Co", "Cs") or category[0] not in _UNSEEN
    ) and character not in _BLANK


def parse_json(data: bytes | str) -> Any:
    """Return parsed JSON in any Unicode encoding.

    A name that an object has twice gets a list of both values.

    Raises:
        ValueError: it is not JSON, or it is nested too deeply.
    """
    return bounded_json.parse_json(data, nan=True, surrogates=True, join=gather)


def gather(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return names and values as a dict; a name that occurs twice gets a list of its values."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        values: dict[str, list[Any]] = {}
        for name, value in pairs:
            values.setdefault(name, []).append(value)
        fields = {name: each if len(each) > 1 else each[0] for name, each in values.items()}
    return fields


def bounded_lines(file: IO[Any], most: int) -> Iterator[Any]:
    """Yield the lines of a file, with None for a line of more than `most` bytes or characters."""
    while line := file.readline(most + 1):
        if len(line) <= most:
            yield line
            continue
        ends = ("\n", "\r") if isinstance(line, str) else b"\n"
        while line and not line.endswith(ends):
            line = file.readline(most)
        yield None
