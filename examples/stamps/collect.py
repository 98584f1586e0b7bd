"""Make a folder of captioned pictures of the stamps of Tux Paint, a drawing program for children.

    apt-get install tuxpaint-stamps-default
    python examples/stamps/collect.py --out runs/stamps/pictures

The package of Debian has 785 captioned pictures: drawings and photographs of animals, food,
vehicles, letters and much more, most of them cut out. Its copyright file puts them all under the
GNU General Public License, version 2. They are not part of this repository.

Each stamp is put whole on a white square, at most --size pixels a side, because training crops a
square. Its caption is the first line of the .txt beside it, which is English; other languages
follow there. With --plain it loses its article and its full stop, so that it is like the name of an
emoji: "A red apple." is "red apple". Stamps that are SVG alone are left out, and so are mirrored
copies, which have no caption.
"""

import argparse
import collections
import re
from pathlib import Path

from PIL import Image

from data_pipeline.images.decode import decode_rgb, open_image
from data_pipeline.io.arguments import Parser, run
from data_pipeline.io.errors import InputError
from data_pipeline.io.progress import bar, say
from data_pipeline.io.regular_files import read_regular
from data_pipeline.io.staging import appearing
from data_pipeline.io.terminal import tell
from data_pipeline.sources.items import MAX_TEXT_BYTES, limit_of
from data_pipeline.sources.texts import TextError, decode_text, tidy

STAMPS = Path("/usr/share/tuxpaint/stamps")
MARGIN = 0.04  # of the square's side


def main(argv: list[str] | None = None) -> None:
    """Collect the stamps and print how many there are."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a new or empty directory"
    )
    parser.add_argument(
        "--stamps", type=Path, default=STAMPS, metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--size", type=int, default=512, metavar="S", help="largest side (default: %(default)s)"
    )
    parser.add_argument(
        "--plain", action="store_true", help="captions without a first article and a full stop"
    )
    args = parser.parse_args(argv)
    if not 64 <= args.size <= 4096:
        raise InputError(f"--size {args.size}: give 64..4096 pixels")
    if not args.stamps.is_dir():
        raise InputError(
            f"--stamps {args.stamps} is no folder: `apt-get install tuxpaint-stamps-default`, or"
            " give the package's usr/share/tuxpaint/stamps"
        )
    found = sorted(
        path for path in args.stamps.rglob("*") if path.suffix.lower() in (".png", ".svg")
    )
    pngs = [path for path in found if path.suffix.lower() == ".png"]
    there = {path.with_suffix("") for path in pngs}
    left_out = collections.Counter(
        "an SVG alone"
        for path in found
        if path.suffix.lower() == ".svg" and path.with_suffix("") not in there
    )
    made = 0
    with appearing(args.out) as folder, bar(len(pngs), "stamps", "picture") as shown:
        for path in pngs:
            shown.update()
            text = path.with_suffix(".txt")
            if not text.is_file():
                left_out["a picture without a caption"] += 1
                continue
            target = folder / path.relative_to(args.stamps)
            target.parent.mkdir(parents=True, exist_ok=True)
            on_square(path, args.size).save(target)
            caption = plain(first_line(text)) if args.plain else first_line(text)
            target.with_suffix(".txt").write_text(f"{caption}\n", encoding="utf-8")
            made += 1
        if not made:
            raise InputError(f"--stamps {args.stamps} has no PNG with a .txt beside it")
    for why, count in left_out.most_common():
        say(f"left out {count:,}: {why}")
    tell(f"{made:,} stamps with captions in {args.out}")


def on_square(path: Path, size: int) -> Image.Image:
    """Return a stamp whole on a white square of at most `size` pixels a side."""
    try:
        stamp = decode_rgb(open_image(read_regular(path, limit_of("image"))))
    except (OSError, InputError) as e:
        raise InputError(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}") from e
    inside = round(size * (1 - 2 * MARGIN))
    if max(stamp.size) > inside:
        scale = inside / max(stamp.size)
        sides = [max(1, round(side * scale)) for side in stamp.size]
        stamp = stamp.resize(sides, Image.Resampling.LANCZOS)
    side = min(size, round(max(stamp.size) / (1 - 2 * MARGIN)))
    square = Image.new("RGB", (side, side), "white")
    square.paste(stamp, ((side - stamp.width) // 2, (side - stamp.height) // 2))
    return square


def first_line(path: Path) -> str:
    """Return the first line of a stamp's text."""
    try:
        return tidy(tidy(decode_text(read_regular(path, MAX_TEXT_BYTES))).splitlines()[0])
    except (OSError, TextError, IndexError) as e:
        why = "it is empty" if isinstance(e, IndexError) else getattr(e, "strerror", None) or e
        raise InputError(f"{path} cannot be read: {why}") from e


def plain(caption: str) -> str:
    """Return a caption without its first article and its full stop; others as they are."""
    return re.sub(r"^(?:an?|the) (?=\S)|\.$", "", caption, flags=re.IGNORECASE)


if __name__ == "__main__":
    run(main)
