"""Draw the two pictures of docs/guides/emoji.md from a finished run: losses, and a grid of prompts.

    python examples/emoji/show.py --runs runs/emoji --out docs/guides

The runs are those of the commands on that page.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

from cv3jax.cascade.pipeline import load
from cv3jax.cli import run_command
from cv3jax.reports.pictures import contact_sheet, save_png
from cv3jax.training.metrics import read_lines
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
NEW = ("purple apple", "green heart", "cat police officer", "blue onion")


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


def grid(runs: Path, out: Path) -> None:
    """Draw what base and relay make of names in the data, and of names that are not in it."""
    cascade, records = load(runs / "relay"), open_records(runs / "data")
    places = {records[i]["caption"]: i for i in range(len(records))}
    whole = LoaderSettings(
        batch_size=len(records),
        image_size=128,
        seed=0,
        crop=CropSettings(random_crop=False),
        num_threads=0,
        shuffle=False,
        num_epochs=1,
    )
    images = next(make_loader(records, whole))["image"]
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
    save_png(out / "emoji.png", np.concatenate(halves))


def main(argv: list[str] | None = None) -> None:
    """Draw both pictures."""
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


if __name__ == "__main__":
    run_command(main)
