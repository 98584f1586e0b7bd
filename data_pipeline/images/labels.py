"""Text on pictures for people: measured, wrapped to a column, each script in a font that has it.

Pillow's own font has Latin letters, and matplotlib's DejaVu has some more scripts. For others, the
fonts of the system are searched: Debian's fonts-noto-core and fonts-noto-cjk have them. Characters
that no font has are replaced by a note in brackets, and one line on stderr says so.
"""

import functools
import importlib.util
import itertools
import os
import unicodedata
from pathlib import Path

from PIL import ImageDraw, ImageFont

from data_pipeline.io.progress import say

SIZE = 12  # font size, pixels
LINE = 15  # distance of lines, pixels
# folders where systems keep fonts, and the names of useful fonts, the preferred ones first
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
# first words of the names of characters that Chinese, Japanese and Korean fonts have
_EASTERN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH")
_SUFFIXES = (".ttf", ".otf", ".ttc")
_NONE = "\U0010fffe"  # not a character: every font draws its placeholder for it
_BEYOND = "…"
_JOINERS = "\u200c\u200d"  # letters of some scripts need these; other format characters are removed


def clean(text: str) -> str:
    """Return foreign text in one line, without control and direction characters."""
    kept = (" " if c.isspace() else c for c in text if c.isspace() or c in _JOINERS or _shown(c))
    return " ".join("".join(kept).split())


def _shown(char: str) -> bool:
    """Return whether a character is kept: it is no control character and no variation selector."""
    return unicodedata.category(char)[0] != "C" and not "\ufe00" <= char <= "\ufe0f"


@functools.lru_cache(4096)  # words occur again, and so do the labels of a sheet
def width_of(line: str) -> float:
    """Return the width in pixels of a line of `wrap`."""
    return sum(font.getlength(run) for font, run in _runs(line))


def wrap(text: str, width: float, lines: int | None = None) -> list[str]:
    """Return the text as lines of at most `width` pixels.

    A line breaks at a space. Within a word that is too wide for a line, as in Chinese, it breaks
    anywhere. Where the text needs more than `lines` lines, the last one ends with "…".
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
        # a single word may be set in a narrower font than the whole line
        while count > 1 and width_of(" ".join(words[:count])) > width:
            count -= 1
        out.append(" ".join(words[:count]))
        del words[:count]
    return out


def _fitting(text: str, width: float, tail: str = "") -> int:
    """Return how many characters, at least one, fit into a line that ends with `tail`."""
    low, high = 1, max(1, min(len(text), int(width)))  # a letter is at least a pixel wide
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width_of(text[:middle] + tail) <= width else (low, middle - 1)
    while low < len(text) and low > 1 and _clings(text[low]):  # marks stay with their letter
        low -= 1
    return low


def write(draw: ImageDraw.ImageDraw, place: tuple[float, float], lines: list[str]) -> None:
    """Draw lines of `wrap` below each other; `place` is their top left corner."""
    x, y = place
    ascent = _fonts()[0].getmetrics()[0]
    for number, line in enumerate(lines):
        at = x
        for font, run in _runs(line):
            draw.text((at, y + ascent + number * LINE), run, fill="black", font=font, anchor="ls")
            at += font.getlength(run)


def _runs(line: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
    """Return the parts of a line, each with the font in which it is drawn.

    Characters that are not letters stay with the letters before them, so that a sentence of a
    right-to-left script is one part.
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
    """Return the text with a note such as "[3 CJK]" in place of characters that no font has."""
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
    """Return the script of a character that no font has (CJK, THAI, SYMBOL); otherwise empty."""
    if not char or _clings(char) or _font_of(char):
        return ""
    if unicodedata.category(char)[0] == "S":
        return "SYMBOL"
    first = unicodedata.name(char, f"U+{ord(char):04X}").split()[0]
    return "CJK" if first.startswith(_EASTERN) else first


def _clings(char: str) -> bool:
    """Return whether a character is combined with the one before it."""
    return unicodedata.category(char)[0] == "M" or char in _JOINERS


@functools.cache
def _say(script: str) -> None:
    """Say once for each script that no font has its characters."""
    name = "cjk" if script == "CJK" else "core"
    said = f"no font here has {script} characters, so contact sheets note them in brackets"
    say(f"cv3jax: {said}; install Noto fonts to see them (Debian: fonts-noto-{name})")


@functools.cache
def _font_of(char: str, plain: bool = False) -> ImageFont.FreeTypeFont | None:
    """Return the first font that has a character, or None.

    For lines that are not `plain` Pillow's own font is tried last: it has no accented letters, and
    a word should be in one font.
    """
    own, *others = _fonts()
    return next((font for font in ([own] if plain else [*others, own]) if _has(font, char)), None)


@functools.cache
def _has(font: ImageFont.FreeTypeFont, char: str) -> bool:
    """Return whether a font has a character."""
    return char.isspace() or _drawn(font, char) != _drawn(font, _NONE)


@functools.lru_cache(1024)
def _drawn(font: ImageFont.FreeTypeFont, char: str) -> tuple:
    """Return a character's picture in a font, to compare it with others."""
    mask = font.getmask(char)
    return (mask.size, tuple(mask))


@functools.cache
def _fonts() -> tuple[ImageFont.FreeTypeFont, ...]:
    """Return Pillow's own font, then those of `_files` that can be read."""
    fonts = [ImageFont.load_default(SIZE)]
    for file in _files():
        try:
            fonts.append(ImageFont.truetype(str(file), SIZE))
        except OSError:
            continue
    return tuple(fonts)


def _files() -> list[Path]:
    """Return the font files: matplotlib's DejaVu, then NAMES, then all others of Noto Sans."""
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
