"""An API key, and text from outside without it: servers repeat keys, whole, in parts, or encoded.

Found are parts of LEAST characters or more, in upper or lower case, with blanks, line breaks or
invisible characters between them, with percent, HTML or JSON escapes, and in hexadecimal or
base 64. Whoever has the key can hide it in other ways; what is meant is a server that repeats what
it was sent.
"""

import base64
import re
from collections.abc import Iterator
from typing import Any

LEAST = 8  # characters of a part of a key that is not shown
HIDDEN = "***"
_LEAST_CODED = {"hex": 2 * LEAST, "base64": 12}  # characters that stand for about as many of a key
_INVISIBLE = "\xad\u034f\u061c\u115f\u180e\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_BLANKS = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\u202f\u3000"
_FOLDED = {
    **dict.fromkeys(map(ord, _BLANKS + _INVISIBLE)),
    **{ord(c): c.lower() for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
}
# an escape of escapes has more % or \ before it; no match begins within those, which would take
# the square of their number
_ESCAPE = re.compile(
    r"%(?:25)*([0-9a-f]{2})|&#x0*([0-9a-f]{1,2});|&#0*([0-9]{1,3});"
    r"|(?<!\\)\\++(?:u00([0-9a-f]{2})|x([0-9a-f]{2})|[nrtfv])",
    re.IGNORECASE,
)


class Secret:
    """A key that is sent to a server and shown nowhere."""

    def __init__(self, key: str | None):
        """Keep the key; None and "" hide nothing. One shorter than LEAST is found as it stands."""
        key = key or ""
        self._short = key if len(_plain(key)) < LEAST else ""
        self._parts = set() if self._short or not key else set(_parts(key))

    def redact(self, text: str) -> str:
        """Return a text with *** for every part of the key that has LEAST characters or more.

        Do it before the text is cut. A key shorter than LEAST is hidden where all of it stands.
        """
        if self._short:
            return text.replace(self._short, HIDDEN)
        if not self._parts:
            return text
        plain = _plain(text)  # without places, which take longer
        if not any(part in plain for part in self._parts):
            return text
        folded, places = _folded(text)
        out, end = [], 0
        for begin, stop in _merged(self._found(folded)):
            out += [text[end : places[begin][0]], HIDDEN]
            end = places[stop - 1][1]
        return "".join([*out, text[end:]])

    def without(self, value: Any) -> Any:
        """Return a value of JSON whose texts and names are redacted."""
        if not self._parts and not self._short:
            return value
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, list):
            return [self.without(each) for each in value]
        if isinstance(value, dict):
            return {self.redact(name): self.without(each) for name, each in value.items()}
        return value

    def _found(self, folded: str) -> Iterator[tuple[int, int]]:
        for part in self._parts:
            at = folded.find(part)
            while at >= 0:
                yield at, at + len(part)
                at = folded.find(part, at + 1)


def _parts(key: str) -> Iterator[str]:
    """Yield the shortest parts of a key and of its codes that are hidden, in lower case."""
    data = key.encode(errors="surrogateescape")
    yield from _windows(_plain(key), LEAST)
    yield from _windows(data.hex(), _LEAST_CODED["hex"])
    for before in range(3):  # where the key stands within what was encoded
        coded = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        # the characters at both ends have bits of what is beside the key
        coded = coded[(0, 2, 3)[before] : -1]
        for text in {coded, coded.replace("+", "-").replace("/", "_")}:
            yield from _windows(text, _LEAST_CODED["base64"])


def _windows(text: str, size: int) -> Iterator[str]:
    text = text.translate(_FOLDED)
    yield from (text[i : i + size] for i in range(len(text) - size + 1))


def _character(found: re.Match) -> str:
    """Return the character of an escape; that of a line break is left out."""
    if found[3]:
        return chr(int(found[3]))
    number = next((int(each, 16) for each in found.groups() if each), None)
    return "" if number is None else chr(number)


def _plain(text: str) -> str:
    """Return a text in lower case with its escapes resolved and without blanks."""
    if any(mark in text for mark in "%\\&"):
        text = _ESCAPE.sub(_character, text)
    return text.translate(_FOLDED)


def _folded(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return (`_plain`, the begin and the end in `text` of each of its characters)."""
    folded, places, at = [], [], 0

    def add(characters: str, begin: int, end: int) -> None:
        for character in characters.translate(_FOLDED):
            folded.append(character)
            places.append((begin, end))

    for found in _ESCAPE.finditer(text):
        for i in range(at, found.start()):
            add(text[i], i, i + 1)
        add(_character(found), *found.span())
        at = found.end()
    for i in range(at, len(text)):
        add(text[i], i, i + 1)
    return "".join(folded), places


def _merged(spans: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans in order, those that touch as one."""
    out: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if out and begin <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((begin, end))
    return out


NONE = Secret(None)
