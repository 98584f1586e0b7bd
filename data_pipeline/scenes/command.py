"""Render captioned scenes of coloured shapes, by seed.

The heldout split has combinations of colour and shape that the train split never has.
"""

import argparse
from pathlib import Path
from typing import Any

from data_pipeline.io.arguments import Parser, add_output
from data_pipeline.io.errors import counted
from data_pipeline.io.figures import add_json
from data_pipeline.io.objects.outputs import dataset
from data_pipeline.io.objects.store import address_of
from data_pipeline.io.terminal import tell
from data_pipeline.scenes.dataset import SceneSettings, build
from data_pipeline.scenes.grammar import NEW_COLOURS

EXAMPLE = "cv3jax data scenes --out runs/scenes --num 12000 --split train"


def parser() -> Parser:
    """Return the parser of `cv3jax data scenes`."""
    made = Parser(prog="cv3jax data scenes", description=__doc__, example=EXAMPLE)
    add_output(made)
    made.add_argument("--num", type=int, required=True, metavar="N", help="scenes to render")
    made.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the scenes (default: %(default)s)"
    )
    made.add_argument(
        "--split",
        choices=("train", "heldout"),
        default="train",
        help="the split whose combinations of colour and shape are used (default: %(default)s)",
    )
    made.add_argument(
        "--size",
        type=int,
        default=128,
        metavar="PIXELS",
        help="side of the square images (default: %(default)s)",
    )
    for name, default, of in (
        ("--textured", 0.5, "objects with a texture, an outline or both"),
        ("--two", 0.6, "scenes with two objects"),
        ("--relational", 0.2, 'these whose caption says "to the left of"'),
    ):
        made.add_argument(
            name,
            type=float,
            default=default,
            metavar="P",
            help=f"share of {of} (default: %(default)s)",
        )
    made.add_argument(
        "--new",
        choices=NEW_COLOURS,
        help="a colour that other scenes do not have, for one object of each scene (default: none)",
    )
    add_json(made)
    return made


def command(args: argparse.Namespace) -> dict[str, Any]:
    """Render the scenes, print how many there are, and return the figures."""
    settings = SceneSettings(
        num=args.num,
        seed=args.seed,
        split=args.split,
        size=args.size,
        textured=args.textured,
        two=args.two,
        relational=args.relational,
        new=args.new,
    )

    def make(out: Path) -> dict[str, int]:
        return {"records": build(out, settings, shards=args.shards, overwrite=args.overwrite)}

    count = dataset(args.out, make, vars(args), overwrite=args.overwrite)["records"]
    place = address_of(args.out) or args.out
    tell(f"{counted(count, 'scene')} of the {args.split} split in {place}")
    return {"records": count, "split": args.split, "seed": args.seed, "size": args.size}
