"""Draw the two pictures of docs/guides/emoji.md from a finished run: losses, and a grid of prompts.

    python examples/emoji/show.py --runs runs/emoji --out docs/guides

The runs are those of the commands on that page. It also prints how often a picture is nearer to
the drawing of its name than to any other.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from cv3jax.cascade.pipeline import load
from cv3jax.cli import run_command
from cv3jax.reports.pictures import contact_sheet
from cv3jax.training.metrics import read_lines
from data_pipeline.io.errors import InputError
from data_pipeline.io.terminal import tell
from data_pipeline.loading.loader import make_loader
from data_pipeline.loading.settings import CropSettings, LoaderSettings
from data_pipeline.records.records import open_records

matplotlib.use("Agg")
import matplotlib.pyplot as plt

KNOWN = (
    "red apple",
    "red heart",
    "grinning face",
    "soccer ball",
    "woman police officer, medium skin tone",
    "keycap 3 button",
    "cat face",
    "eight-thirty",
    "blue circle",
    "green apple",
    "man health worker, dark skin tone",
    "hot dog",
)
NEW = ("purple apple", "blue onion", "cat police officer", "green cat face")
ASKED, SIDE = (
    256,
    16,
)  # names whose pictures are compared with all drawings, at so many pixels a side


def curves(runs: Path, out: Path) -> None:
    """Draw the loss of the three stages over their updates, side by side."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
    for axis, stage in zip(axes, ("vae", "base", "relay"), strict=True):
        lines = read_lines(runs / stage / "metrics.jsonl")
        axis.plot([line["step"] for line in lines], [line["loss"] for line in lines])
        axis.set(
            title=f"{stage}, {lines[-1]['seconds'] / 60:.1f} min",
            xlabel="updates",
            ylabel="loss",
            yscale="log",
        )
        axis.grid(alpha=0.3, which="both")
    figure.savefig(out / "emoji_curves.png", dpi=90)


def drawings(runs: Path) -> tuple[list[str], np.ndarray]:
    """Return the names of all drawings, and the drawings, uint8 [n, 128, 128, 3]."""
    records = open_records(runs / "data")
    whole = LoaderSettings(
        batch_size=len(records),
        image_size=128,
        seed=0,
        crop=CropSettings(random_crop=False),
        num_threads=0,
        shuffle=False,
        num_epochs=1,
    )
    names = [records[i]["caption"] for i in range(len(records))]
    return names, next(make_loader(records, whole))["image"]


def grid(runs: Path, out: Path) -> None:
    """Draw what base and relay make of names in the data, and of names that are not in it.

    Raises InputError where a name of KNOWN has no drawing, or one of NEW has.
    """
    cascade, (known, images) = load(runs / "relay"), drawings(runs)
    places = {name: i for i, name in enumerate(known)}
    if wrong := [*({*KNOWN} - {*known}), *({*NEW} & {*known})]:
        raise InputError(f"{runs / 'data'}: {wrong[0]} is not where it should be, in data or not")
    blank = np.full((128, 128, 3), 255, np.uint8)
    made = cascade.generate([*KNOWN, *NEW], list(range(len(KNOWN) + len(NEW))))
    real = np.stack([images[places[name]] for name in KNOWN] + [blank] * len(NEW))
    names = [*KNOWN, *(f"{name} (no such emoji)" for name in NEW)]
    rows = [real, made["base"], made["round_trip"], made["relay"]]
    # eight columns below eight, so that a page can show the captions at their size
    halves = [
        contact_sheet(
            [images[half] for images in rows],
            rows=("the emoji", "base, 64 px", "round trip", "relay, 128 px"),
            columns=names[half],
            side=96,
        )
        for half in (slice(0, 8), slice(8, 16))
    ]
    sheet = Image.fromarray(np.concatenate(halves)).quantize(256, dither=Image.Dither.NONE)
    sheet.save(out / "emoji.png", optimize=True)


def nearest(runs: Path) -> str:
    """Return a line on how many of the base's pictures are nearest to the drawing they should be.

    Distances are those of the pixels, shrunk to SIDE. Names are compared up to their first comma,
    after which the tone of the skin follows.
    """
    cascade, (names, images) = load(runs / "relay"), drawings(runs)
    real = small(images)
    asked = np.random.default_rng(0).choice(len(names), ASKED, replace=False)
    made = [
        cascade.generate([names[i] for i in some], [int(i) for i in some])
        for some in np.split(asked, ASKED // 32)
    ]
    counts = []
    for stage in ("base", "relay"):
        drawn = small(np.concatenate([one[stage] for one in made]))
        order = np.argsort((real**2).sum(1) - 2 * drawn @ real.T, axis=1)  # by squared distance
        same = [
            [names[j].partition(", ")[0] == names[i].partition(", ")[0] for j in row[:5]]
            for i, row in zip(asked, order, strict=True)
        ]
        counts += [sum(row[0] for row in same), sum(any(row) for row in same)]
    return (
        f"of {ASKED} names, the drawing asked for is the nearest of {len(names):,} to the base's"
        f" picture {counts[0]} times and among the nearest five {counts[1]} times; to the relay's"
        f" {counts[2]} and {counts[3]} times"
    )


def small(images: np.ndarray) -> np.ndarray:
    """Return pictures [n, s, s, 3] shrunk to SIDE, float32 [n, values]."""
    n, side = images.shape[:2]
    cells = images.astype(np.float32).reshape(n, SIDE, side // SIDE, SIDE, side // SIDE, 3)
    return cells.mean((2, 4)).reshape(n, -1)


def main(argv: list[str] | None = None) -> None:
    """Draw both pictures, and print how many names are drawn right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=Path, required=True, metavar="DIR", help="holds data, vae, base and relay"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    grid(args.runs, args.out)
    curves(args.runs, args.out)
    tell(nearest(args.runs))


if __name__ == "__main__":
    run_command(main)
