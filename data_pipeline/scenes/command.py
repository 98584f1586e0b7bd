"""Renders captioned scenes of coloured shapes, by seed.

The heldout split has combinations of colour and shape that the train split never has.
"""

import argparse
from typing import Any

from data_pipeline.io.arguments import add_output
from data_pipeline.scenes.dataset import SceneSettings, build


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    parser.add_argument("--num", type=int, required=True, metavar="N", help="how many")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--split", choices=("train", "heldout"), default="train", help="default: %(default)s"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=128,
        metavar="PIXELS",
        help="of the square images (default: %(default)s)",
    )
    for name, default, of in (
        ("--textured", 0.5, "objects with a texture, an outline or both"),
        ("--two", 0.6, "scenes with two objects"),
        ("--relational", 0.2, 'those that say "to the left of"'),
    ):
        parser.add_argument(
            name,
            type=float,
            default=default,
            metavar="P",
            help=f"share of {of} (default: %(default)s)",
        )


def command(args: argparse.Namespace) -> dict[str, Any]:
    settings = SceneSettings(
        num=args.num,
        seed=args.seed,
        split=args.split,
        size=args.size,
        textured=args.textured,
        two=args.two,
        relational=args.relational,
    )
    count = build(args.out, settings, shards=args.shards, overwrite=args.overwrite)
    print(f"{count:,} scenes of the {args.split} split in {args.out}")
    return {"records": count, "split": args.split, "seed": args.seed, "size": args.size}
