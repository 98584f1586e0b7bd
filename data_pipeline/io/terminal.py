r"""Print text on a terminal, some of which may come from outside: captions, keys, names, answers.

A terminal obeys escape sequences, and characters that turn the direction of writing around make a
line say what it does not. So what is not printable is shown as Python writes it in a string, such
as \x1b. All commands print through `tell` and `progress.say`.
"""

import sys
import unicodedata

MOST = 4000  # characters of a line
_JOINING = "\u200c\u200d"  # within words of some scripts, and within emoji; they move nothing


def visible(text: object, most: int | None = None) -> str:
    """Return a text with its unprintable characters escaped, line breaks too.

    most: the characters after which it is cut; None: it is whole.
    """
    text = str(text)
    if not (text.isascii() and text.isprintable()):
        text = "".join(c if _shows(c) else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if most is None or len(text) <= most else f"{text[:most]}…"


def one_line(text: object, most: int = MOST) -> str:
    """Return a text as one visible line, with one blank for each run of blanks or line breaks.

    Of a longer text than `most` characters the middle is left out: the end says what to do.
    """
    text = str(text)
    if len(text) > 8 * most:
        text = f"{text[: 4 * most]}…{text[-4 * most :]}"
    shown = visible(" ".join(text.split()))
    half = most // 2
    return shown if len(shown) <= most else f"{shown[:half]}…{shown[-half:]}"


def tell(text: object = "") -> None:
    """Print lines on stdout; each of them is made visible."""
    sys.stdout.write("".join(f"{visible(line, MOST)}\n" for line in str(text).split("\n")))


def _shows(character: str) -> bool:
    return (
        character.isprintable()
        or character in _JOINING
        or unicodedata.category(character) == "Zs"  # blanks of other scripts
    )
