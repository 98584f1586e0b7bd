"""Draw captions of the stamps before and after a fine-tune, beside the stamps themselves.

    python examples/stamps/show.py --pictures runs/stamps/pictures --checkpoint runs/emoji/relay \
        --lora runs/stamps/base/lora/adapter.safetensors \
        --lora runs/stamps/relay/lora/adapter.safetensors --out docs/guides/stamps.png

Four of the captions are of no stamp. The seeds are the same in all rows.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import cv3jax
from cv3jax.reports.pictures import contact_sheet
from data_pipeline.images.decode import decode_rgb, open_image
from data_pipeline.io.arguments import Parser, run
from data_pipeline.io.errors import InputError
from data_pipeline.io.regular_files import read_regular
from data_pipeline.sources.items import limit_of

KNOWN = (
    "red apple",
    "sliced lime",
    "letter B",
    "giraffe",
    "lion",
    "basketball",
    "double decker bus",
    "yellow lemon",
    "pair of closed scissors",
    "daffodil",
    "full moon",
    "brown hen",
)
NEW = ("blue apple", "green lion", "purple basketball", "yellow bus")
SIDE = 128


def main(argv: list[str] | None = None) -> None:
    """Draw the sheet."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pictures", type=Path, required=True, metavar="DIR", help="what collect.py --plain wrote"
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="before the fine-tune")
    parser.add_argument(
        "--lora", action="append", required=True, metavar="FILE", help="an adapter; several times"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    args = parser.parse_args(argv)
    stamps = stamps_of(args.pictures)
    prompts = [*KNOWN, *NEW]
    before = drawn(cv3jax.Cascade.load(args.checkpoint), prompts)
    after = drawn(cv3jax.Cascade.load(args.checkpoint, lora=args.lora), prompts)
    real = np.stack([stamps.get(prompt, np.full_like(before[0], 255)) for prompt in prompts])
    names = [*KNOWN, *(f"{name} (no such stamp)" for name in NEW)]
    # eight columns below eight, so that a page can show the captions at their size
    halves = [
        contact_sheet(
            [images[half] for images in (real, before, after)],
            rows=("the stamp", "before", "after"),
            columns=names[half],
            side=96,
        )
        for half in (slice(0, 8), slice(8, 16))
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet = Image.fromarray(np.concatenate(halves)).quantize(256, dither=Image.Dither.NONE)
    sheet.save(args.out, optimize=True)


def stamps_of(folder: Path) -> dict[str, np.ndarray]:
    """Return the stamp of each of KNOWN, uint8 [SIDE, SIDE, 3]; the first of several.

    Raises InputError where one is missing, or where there is one of NEW.
    """
    found: dict[str, np.ndarray] = {}
    for text in sorted(folder.rglob("*.txt")):
        caption = text.read_text(encoding="utf-8").strip()
        if caption in NEW:
            raise InputError(f"{text}: {caption!r} should be the caption of no stamp")
        if caption in KNOWN and caption not in found:
            picture = text.with_suffix(".png")
            image = decode_rgb(open_image(read_regular(picture, limit_of("image"))))
            found[caption] = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    if lost := [caption for caption in KNOWN if caption not in found]:
        raise InputError(f"--pictures {folder} has no stamp with the caption {lost[0]!r}")
    return found


def drawn(cascade: cv3jax.Cascade, prompts: list[str]) -> np.ndarray:
    """Return a picture of each prompt, uint8 [n, SIDE, SIDE, 3]."""
    pictures = cascade(prompts, seed=list(range(len(prompts))), size=SIDE)
    return np.stack([np.asarray(picture) for picture in pictures])


if __name__ == "__main__":
    run(main)
