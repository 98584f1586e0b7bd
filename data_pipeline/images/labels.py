"""Text on pictures for people: measured, cut to its column, each script in a font that has it.

Pillow's own font has Latin letters, matplotlib's DejaVu some more scripts. For others the fonts of
the system are looked through: Debian's fonts-noto-core and fonts-noto-cjk have them. What no font
has stands as a note in brackets, and is said once on stderr.
"""

import functools
import importlib.util
import itertools
import os
import sys
import unicodedata
from pathlib import Path

from PIL import ImageDraw, ImageFont

SIZE = 12  # of the letters, pixels
LINE = 15  # from one line to the next
# where systems keep their fonts, and the names of those that are of use, the first that is there
PLACES = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
NAMES = (
    "NotoSans-Regular",
    "NotoSansCJK-Regular",
    "NotoSansCJKsc-Regular",
    "PingFang",
    "Hiragino Sans GB",
    "AppleSDGothicNeo",
    "msyh",
    "msgothic",
    "malgun",
    "wqy-microhei",
    "DroidSansFallbackFull",
    "Arial Unicode",
    "Nirmala",
    "unifont",
    "Symbola",
)
# how the names of characters begin that the fonts of Chinese, Japanese and Korean have
_EASTERN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH")
_SUFFIXES = (".ttf", ".otf", ".ttc")
_NONE = "\U0010fffe"  # a character that is none: every font shows its box
_BEYOND = "…"
_JOINERS = "\u200c\u200d"  # which letters of some scripts need; others of their kind are left out


def clean(text: str) -> str:
    """Foreign text in one line, without controls and marks that change its direction."""
    kept = (" " if c.isspace() else c for c in text if c.isspace() or c in _JOINERS or _shown(c))
    return " ".join("".join(kept).split())


def _shown(char: str) -> bool:
    return unicodedata.category(char)[0] != "C" and not "\ufe00" <= char <= "\ufe0f"


@functools.lru_cache(4096)  # words come again, and so do a sheet's labels
def width_of(line: str) -> float:
    """Pixels that a line of `wrap` takes."""
    return sum(font.getlength(run) for font, run in _runs(line))


def wrap(text: str, width: float, lines: int | None = None) -> list[str]:
    """The text in lines of at most `width` pixels.

    Breaks are at spaces, and within words that are wider, as in Chinese, anywhere. Of more than
    `lines` lines the last ends with "…".
    """
    words, out = _noted(clean(text)).split(), []
    while words:
        if len(out) + 1 == lines and width_of(" ".join(words)) > width:
            rest = " ".join(words)
            return [*out, rest[: _fitting(rest, width, _BEYOND)].rstrip() + _BEYOND]
        count, total = 1, width_of(words[0])
        if total > width:
            end = _fitting(words[0], width)
            out.append(words[0][:end])
            words[:1] = [words[0][end:]] if words[0][end:] else []
            continue
        while count < len(words) and (total := total + width_of(f" {words[count]}")) <= width:
            count += 1
        # a word alone may be in a narrower font than the line
        while count > 1 and width_of(" ".join(words[:count])) > width:
            count -= 1
        out.append(" ".join(words[:count]))
        del words[:count]
    return out


def _fitting(text: str, width: float, tail: str = "") -> int:
    """How many characters, one at least, make a line with `tail` that is no wider."""
    low, high = 1, max(1, min(len(text), int(width)))  # a letter has a pixel, at least
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width_of(text[:middle] + tail) <= width else (low, middle - 1)
    while low < len(text) and low > 1 and _clings(text[low]):  # marks stay with their letter
        low -= 1
    return low


def write(draw: ImageDraw.ImageDraw, place: tuple[float, float], lines: list[str]) -> None:
    """Draws lines of `wrap` from `place`, their top left corner, downwards."""
    x, y = place
    ascent = _fonts()[0].getmetrics()[0]
    for number, line in enumerate(lines):
        at = x
        for font, run in _runs(line):
            draw.text((at, y + ascent + number * LINE), run, fill="black", font=font, anchor="ls")
            at += font.getlength(run)


def _runs(line: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
    """A line in parts, each with the font it is drawn in.

    What is no letter stays with the letters before it, so that a sentence that is written from
    right to left is one part.
    """
    runs: list[tuple[ImageFont.FreeTypeFont, str]] = []
    plain = line.isascii()
    for char in line:
        font = runs[-1][0] if runs else None
        if font is None or not (_clings(char) or (not char.isalpha() and _has(font, char))):
            font = _font_of(char, plain) or _fonts()[0]
        if runs and runs[-1][0] is font:
            runs[-1] = (font, runs[-1][1] + char)
        else:
            runs.append((font, char))
    return runs


def _noted(text: str) -> str:
    """The text with a note in place of words of characters that no font has: "[3 CJK]"."""
    out, script, count = [], "", 0
    for char, follows in itertools.pairwise([*text, "", ""]):
        if count and char == " " and _lacking(follows) == script:
            continue
        lacking = _lacking(char)
        if count and lacking != script and not (char and _clings(char)):
            out.append(f"[{count} {script}]")
            count = 0
        if lacking:
            _say(lacking)
            script, count = lacking, count + 1
        elif not (count and char and _clings(char)):
            out.append(char)
    return "".join(out)


def _lacking(char: str) -> str:
    """What a character is of that no font has, in a word: CJK, THAI, SYMBOL. Else empty."""
    if not char or _clings(char) or _font_of(char):
        return ""
    if unicodedata.category(char)[0] == "S":
        return "SYMBOL"
    first = unicodedata.name(char, f"U+{ord(char):04X}").split()[0]
    return "CJK" if first.startswith(_EASTERN) else first


def _clings(char: str) -> bool:
    """Whether a character belongs to the one before it."""
    return unicodedata.category(char)[0] == "M" or char in _JOINERS


@functools.cache
def _say(script: str) -> None:
    name = "cjk" if script == "CJK" else "core"
    said = f"no font here has {script} characters, which contact sheets note in brackets"
    print(
        f"cv3jax: {said}; installing Noto (Debian: fonts-noto-{name}) shows them", file=sys.stderr
    )


@functools.cache
def _font_of(char: str, plain: bool = False) -> ImageFont.FreeTypeFont | None:
    """The first font that has a character.

    Pillow's own is the last to be asked for lines that are not `plain`: it has no accents, and a
    word should be in one font.
    """
    own, *others = _fonts()
    return next((font for font in ([own] if plain else [*others, own]) if _has(font, char)), None)


@functools.cache
def _has(font: ImageFont.FreeTypeFont, char: str) -> bool:
    return char.isspace() or _drawn(font, char) != _drawn(font, _NONE)


@functools.lru_cache(1024)
def _drawn(font: ImageFont.FreeTypeFont, char: str) -> tuple:
    mask = font.getmask(char)
    return (mask.size, tuple(mask))


@functools.cache
def _fonts() -> tuple[ImageFont.FreeTypeFont, ...]:
    """Pillow's own font first, then those of `_files` that can be read."""
    fonts = [ImageFont.load_default(SIZE)]
    for file in _files():
        try:
            fonts.append(ImageFont.truetype(str(file), SIZE))
        except OSError:
            continue
    return tuple(fonts)


def _files() -> list[Path]:
    """DejaVu, which comes with matplotlib, then NAMES, then whatever else Noto Sans has."""
    found: dict[str, Path] = {}
    for place in PLACES:
        for folder, _, names in os.walk(place):
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in _SUFFIXES:
                    found.setdefault(stem, Path(folder, name))
    scripts = sorted(n for n in found if n.startswith("NotoSans") and n.endswith("-Regular"))
    own = importlib.util.find_spec("matplotlib")
    dejavu = Path(own.origin or "").parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if own else Path()
    names = dict.fromkeys(name for name in (*NAMES, *scripts) if name in found)
    return [*([dejavu] if dejavu.is_file() else []), *(found[name] for name in names)]
