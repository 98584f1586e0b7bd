"""Bytes of a foreign text file → text: the encoding by its byte-order mark, and nothing invisible
around it.
"""

import codecs
import json
import unicodedata
from collections.abc import Iterator, Sequence
from typing import IO, Any

_MARKS = (  # UTF-32 first: its little-endian mark begins as UTF-16's does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
# what may stand around a text without being of it: white space, byte-order marks, spaces of no
# width, NULs that pad
_AROUND = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff\u200b\u2060\0"
_BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # letters and symbols that show nothing
_UNSEEN = ("C", "Z", "M")  # categories: controls, formats, separators, marks without a letter


class TextError(ValueError):
    """Bytes that are no text. The message says what they are, and what would be right."""


def encoding_of(start: bytes) -> str:
    """The codec of a file by its first four bytes; UTF-8 where it has no mark."""
    return next((codec for mark, codec in _MARKS if start.startswith(mark)), "utf-8")


def decode_text(data: bytes) -> str:
    """The text of a whole file, or of a field of bytes.

    Raises:
        TextError: it is neither UTF-8 nor marked as UTF-16 or UTF-32, or has NULs within.
    """
    codec = encoding_of(data[:4])
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as e:
        raise TextError(not_text(codec, f"byte {e.start}")) from e
    if "\0" in tidy(text):
        raise TextError(HAS_NULS)
    return text


HAS_NULS = "it has NULs: UTF-16 without a byte-order mark, perhaps; convert it to UTF-8"


def not_text(codec: str, where: str) -> str:
    """Says that a place of a file is none of its encoding, and how to convert it."""
    name = codec.removesuffix("-sig").upper()
    return f"it is not {name} ({where}); convert it, such as: iconv -f cp1252 -t utf-8 OLD > NEW"


def tidy(text: str) -> str:
    """A text without what surrounds it; empty where it shows nothing at all."""
    inside = text.strip(_AROUND)
    return inside if any(map(_shows, inside)) else ""


def _shows(character: str) -> bool:
    category = unicodedata.category(character)
    # not assigned, or private: another font or a later Unicode may well show it; half a surrogate
    # pair is damage, which is not for here to hide
    return (
        category in ("Cn", "Co", "Cs") or category[0] not in _UNSEEN
    ) and character not in _BLANK


def parse_json(data: bytes | str) -> Any:
    """JSON, in any Unicode encoding. Of a name that an object has twice, a list of both values.

    Raises:
        ValueError: it is none.
        RecursionError: it is nested too deeply.
    """
    return json.loads(data, object_pairs_hook=gather)


def gather(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Names and values as a dict; of a name that comes twice, a list of its values."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        for name in fields:
            values = [value for other, value in pairs if other == name]
            fields[name] = values if len(values) > 1 else values[0]
    return fields


def bounded_lines(file: IO[Any], most: int) -> Iterator[Any]:
    """The lines of a file; of one with more than `most` bytes or characters None."""
    while line := file.readline(most + 1):
        if len(line) <= most:
            yield line
            continue
        ends = ("\n", "\r") if isinstance(line, str) else b"\n"
        while line and not line.endswith(ends):
            line = file.readline(most)
        yield None
