"""Test the text of contact sheets.

It stays in its column and uses fonts that contain its characters. Characters without a font are
noted.
"""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from image_shards import encoded
from PIL import Image, ImageDraw

from cv3jax.reports import pictures
from data_pipeline.images import labels
from data_pipeline.images.labels import clean, width_of, wrap
from data_pipeline.records.contact_sheet import contact_sheet
from data_pipeline.records.records import make_record

CAT, DOG = "\u732b", "\u72d7"


def square_font(path, characters, side=1000):
    """Return a font in which each of the characters is a black square of an em."""

    def box(low, high):
        pen = TTGlyphPen(None)
        for i, place in enumerate([(low, low), (low, high), (high, high), (high, low)]):
            (pen.lineTo if i else pen.moveTo)(place)
        pen.closePath()
        return pen.glyph()

    builder = FontBuilder(1000, isTTF=True)
    names = [".notdef", *(f"u{ord(c):x}" for c in characters)]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"u{ord(c):x}" for c in characters})
    builder.setupGlyf(
        {name: box(300, 600) if i == 0 else box(0, 900) for i, name in enumerate(names)}
    )
    builder.setupHorizontalMetrics(dict.fromkeys(names, (side, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Square", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    builder.setupPost()
    builder.save(path)


@pytest.fixture(autouse=True)
def fonts(monkeypatch, tmp_path):
    """Return a function that adds a font of just some characters to Pillow's and matplotlib's."""
    caches = (labels._fonts, labels._font_of, labels._has, labels._drawn, labels._say)

    def use(characters=""):
        place = tmp_path / "fonts" / "noto"
        place.mkdir(parents=True, exist_ok=True)
        if characters:
            square_font(place / "NotoSansSquare-Regular.ttf", characters)
        monkeypatch.setattr(labels, "PLACES", (str(tmp_path / "fonts"),))
        for cache in caches:
            cache.cache_clear()

    use()
    yield use
    for cache in caches:
        cache.cache_clear()


def drawn(lines, width=300):
    image = Image.new("RGB", (width, labels.LINE * max(len(lines), 1) + 4), "white")
    labels.write(ImageDraw.Draw(image), (0, 0), lines)
    return np.asarray(image)[..., 0] < 128


TEXTS = {
    "english": "a small yellow cross with a thin black outline to the left of a square " * 9,
    "no spaces": "x" * 400,
    "wide": "WWWWWWWW MMMMMMMM " * 20,
    "accents": "Größenwahn çà et là naïveté " * 20,
    "russian": "маленькая жёлтая кошка сидит на большом столе " * 12,
    "greek": "ένα μικρό κίτρινο αστέρι " * 20,
    "arabic": "قطة صغيرة صفراء تجلس على الطاولة " * 20,
    "chinese": f"{CAT}{DOG}" * 90,
    "mixed": f"a {CAT} and a {DOG}, " * 20,
    "thai": "\u0e41\u0e21\u0e27\u0e15\u0e31\u0e27\u0e40\u0e25\u0e47\u0e01" * 20,
}


@pytest.mark.parametrize("known", ["", CAT + DOG])
@pytest.mark.parametrize("name", TEXTS)
def test_every_line_is_within_its_column(name, known, fonts):
    fonts(known)
    for width in (60, 192):
        lines = wrap(TEXTS[name], width, 6)
        assert len(lines) == 6 or "[" in lines[0]  # a note of what there is no font for
        assert len(lines) <= 6
        assert lines[-1].endswith("…") == (len(wrap(TEXTS[name], width)) > 6)
        assert max(map(width_of, lines)) <= width
        assert not drawn(lines)[:, width + 2 :].any()
        whole = "".join(wrap(TEXTS[name], width)).replace(" ", "")
        assert whole.startswith("".join(lines).replace(" ", "").removesuffix("…"))


def test_characters_are_drawn_in_a_font_that_has_them(fonts):
    fonts(CAT)
    (line,) = wrap(f"a {CAT} b", 200, 6)
    assert line == f"a {CAT} b"
    ink = drawn([line])
    columns = ink.sum(0)
    assert (columns >= 10).sum() >= 10  # the square, which no letter and no box fills
    assert width_of(CAT) == labels.SIZE


@pytest.mark.parametrize(
    ("text", "shown", "scripts"),
    [
        (f"a {CAT * 3} b", "a [3 CJK] b", ["CJK"]),
        ("\u0e41\u0e21\u0e27", "[3 THAI]", ["THAI"]),
        ("\u0915\u094d\u0937 x", "[2 DEVANAGARI] x", ["DEVANAGARI"]),  # its mark belongs to it
        (f"{CAT}\u3042\u30a2\ud55c\uff0c\u3002", "[6 CJK]", ["CJK"]),
        (f"{CAT} {CAT} a {CAT} {CAT}, {CAT}", "[2 CJK] a [2 CJK], [1 CJK]", ["CJK"]),
        ("star \U0001f9ff!", "star [1 SYMBOL]!", ["SYMBOL"]),
        (
            "caf\u00e9 \u2192 \u043a\u043e\u0442 \u00d7 \u2019",
            "caf\u00e9 \u2192 \u043a\u043e\u0442 \u00d7 \u2019",
            [],
        ),
    ],
)
def test_what_no_font_has_is_noted_and_said_once(text, shown, scripts, capsys):
    for _ in range(2):
        assert wrap(text, 1000) == [shown]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(scripts)
    for line, script in zip(said, scripts, strict=True):
        assert f"no font here has {script} characters" in line


def test_foreign_text_is_one_line_without_controls():
    text = "a\n\tb\u202ec\x1b[31m \u2067d\ufe0f \ud800e\u200b f\u2028g"
    assert clean(text) == "a bc[31m d e f g"
    assert wrap("", 100) == []
    assert wrap(" \n ", 100, 3) == []


@pytest.mark.parametrize("name", TEXTS)
def test_captions_stay_under_their_own_picture(name, tmp_path):
    records = [
        make_record(encoded(i, size=(32, 32)), text, key=str(i))
        for i, text in enumerate((TEXTS[name][:4000], "x"))
    ]
    contact_sheet(records, tmp_path / "sheet.png", name="d")
    ink = (np.asarray(Image.open(tmp_path / "sheet.png")) < 128).all(-1)
    gap, tile = 8, 192
    below = ink[gap + tile :]
    assert below[:, gap : gap + tile].any()
    assert not below[:, gap + tile : 2 * gap + tile].any()  # between the columns
    own = below[:, 2 * gap + tile + 20 :]
    assert not own.any()  # beside the other's "x"


@pytest.mark.parametrize("name", TEXTS)
def test_labels_stay_beside_their_own_rows_and_columns(name):
    side, gap = 64, pictures.GAP
    white = np.full((2, side, side, 3), 255, np.uint8)
    sheet = pictures.contact_sheet([white], columns=[TEXTS[name][:200], ""])
    pitch = (sheet.shape[1] - gap) // 2
    ink = (sheet < 128).any(-1)
    assert ink[:, : gap + pitch].any()
    assert not ink[:, gap + pitch :].any()
    sheet = pictures.contact_sheet([white, white], rows=[TEXTS[name], "x"])
    left = sheet.shape[1] - 2 * (side + gap) - gap
    assert left <= pictures.MAX_LABEL + gap
    assert not (sheet < 128)[:, left:].any()
    assert not (sheet < 128)[side + 2 * gap :, gap + 20 : left].any()
