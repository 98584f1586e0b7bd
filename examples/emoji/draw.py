"""Draw the emoji of the font Noto Color Emoji, with their Unicode names as captions.

This makes a small dataset of real drawings without a download.

    apt-get install fonts-noto-color-emoji && pip install -e '.[examples]'
    python examples/emoji/draw.py --out runs/emoji/images
    cv3jax data pack --input runs/emoji/images --out runs/emoji/data

Each emoji becomes NAME.png (128 × 128, on white) and NAME.txt. The captions are the names of
Unicode CLDR, from the package `emoji`. Flags, skin tones, keycaps and families are sequences of
code points that the font draws as one glyph. Drawing takes about half a minute.
"""

import argparse
import collections
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features
from tqdm import tqdm

from data_pipeline.io.arguments import Parser, run
from data_pipeline.io.errors import InputError

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STRIKE = 109  # the one size of the bitmaps in this font; its glyphs are 136 × 128 pixels
SIZE, MARGIN = 128, 4  # pixels of the result
_TONE = "(?:medium-light|medium-dark|light|medium|dark) skin tone"


def main(argv: list[str] | None = None) -> None:
    """Draw the emoji and print how many there are."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a new or empty directory"
    )
    parser.add_argument(
        "--font", type=Path, default=FONT, metavar="TTF", help="default: %(default)s"
    )
    args = parser.parse_args(argv)
    font = open_font(args.font)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        empty = not any(args.out.iterdir())
    except OSError as e:
        raise InputError(
            f"--out {args.out}: cannot be made a directory ({e.strerror}); give a new one"
        ) from e
    if not empty:
        raise InputError(f"--out {args.out} is not an empty directory; give a new one")

    counts: collections.Counter[str] = collections.Counter()
    drawn: dict[bytes, str] = {}
    for text, caption in tqdm(named_emoji(), desc="emoji", unit="glyph", mininterval=0.5):
        image, problem = draw(font, text)
        if image is None:
            counts[problem] += 1
            continue
        pixels = image.tobytes()
        if pixels in drawn:  # for example flags of islands that are another country's flag
            counts["same picture as another"] += 1
            continue
        drawn[pixels] = caption
        name = "-".join(f"{ord(c):x}" for c in text)  # stable and safe, unlike the caption
        image.save(args.out / f"{name}.png")
        (args.out / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")
    for problem, count in counts.most_common():
        print(f"left out {count:,}: {problem}", file=sys.stderr)
    if not drawn:
        raise InputError(f"{args.font} drew none of the emoji; is it a colour emoji font?")
    print(f"{len(drawn):,} emoji with captions in {args.out}")


def open_font(path: Path) -> ImageFont.FreeTypeFont:
    """Return the font.

    Raises InputError when the file is missing or is another kind of font, and when this Pillow
    cannot lay out sequences.
    """
    if not path.is_file():
        raise InputError(
            f"no font at {path}: `apt-get install fonts-noto-color-emoji`, or give --font"
            " NotoColorEmoji.ttf"
        )
    if not features.check("raqm"):
        raise InputError(
            "this Pillow cannot lay out emoji sequences: install the wheel from PyPI, which has"
            " raqm, or apt's libraqm0"
        )
    try:
        return ImageFont.truetype(str(path), STRIKE, layout_engine=ImageFont.Layout.RAQM)
    except OSError as e:
        raise InputError(
            f"{path} is not a colour emoji font with bitmaps of size {STRIKE} ({e})"
        ) from e


def named_emoji() -> list[tuple[str, str]]:
    """Return (code points, caption) of every fully qualified emoji, in a fixed order."""
    try:
        import emoji
    except ImportError as e:
        raise InputError("names come from the package `emoji`: pip install -e '.[examples]'") from e
    complete = emoji.STATUS["fully_qualified"]
    return sorted(
        (text, caption_of(text, data["en"]))
        for text, data in emoji.EMOJI_DATA.items()
        if data["status"] == complete
    )


def caption_of(text: str, short_name: str) -> str:
    """Return an emoji's name as one would say it.

    (🇫🇷, ":France:") → "flag of france"; (👍🏽, ":thumbs_up_medium_skin_tone:") → "thumbs up, medium
    skin tone".
    """
    name = re.sub(r"\s+", " ", short_name.strip(":").replace("_", " ")).strip().lower()
    # regional indicators, or a tag sequence
    if all("\U0001f1e6" <= c <= "\U0001f1ff" for c in text) or "\U000e007f" in text:
        return f"flag of {name}"
    if name.startswith("keycap"):
        return (
            f"{name} button"
            if name[-1].isalnum()
            else f"keycap {name.removeprefix('keycap').strip()} button"
        )
    tones = re.findall(_TONE, name)
    name = re.sub(f" {_TONE}", "", name)
    name = re.sub(
        r"^(.+?) ((?:red|white|blond|curly) hair|bald|beard)$", r"\1 with \2", name
    ).replace("with bald", "without hair")
    # CLDR lists people after a colon that the package drops: "kiss: woman, man"
    if people := re.fullmatch(
        r"(couple with heart|kiss|family) ((?:(?:person|woman|man|adult|girl|boy|child) ?)+)", name
    ):
        name = f"{people[1]}, {' and '.join(people[2].split())}"
    return ", ".join([name, *tones])


def draw(font: ImageFont.FreeTypeFont, text: str) -> tuple[Image.Image | None, str]:
    """Return the emoji centred on white, RGB [128, 128], and ""; or None and the reason."""
    advance = font.getlength("😀")
    if font.getlength(text) > 1.5 * advance:
        return None, "newer than the font: it draws the parts one by one"
    # The glyph is drawn twice. Its alpha shows where it is, with white borders. The canvas shows
    # how it looks on white. Pillow blends edges with the colour of the canvas, so cutting a glyph
    # from a transparent canvas would leave a dark fringe.
    shape, canvas = (
        Image.new("RGBA", (3 * STRIKE, 2 * STRIKE)),
        Image.new("RGB", (3 * STRIKE, 2 * STRIKE), "white"),
    )
    for target in (shape, canvas):
        ImageDraw.Draw(target).text(
            (STRIKE // 2, STRIKE // 2), text, font=font, embedded_color=True
        )
    box = shape.getchannel("A").getbbox()
    if box is None:
        return None, "blank: the font has no such glyph"
    glyph = canvas.crop(box)
    scale = (SIZE - 2 * MARGIN) / max(glyph.size)
    if max(glyph.size) < STRIKE // 2:  # a small sign is not enlarged
        scale = min(scale, 1.0)
    glyph = glyph.resize(
        [max(1, round(side * scale)) for side in glyph.size], Image.Resampling.LANCZOS
    )
    image = Image.new("RGB", (SIZE, SIZE), "white")
    image.paste(glyph, ((SIZE - glyph.width) // 2, (SIZE - glyph.height) // 2))
    if np.asarray(image).std() < 2:
        return None, "blank: white on white"
    return image, ""


if __name__ == "__main__":
    run(main)
