"""`cv3jax compile`: compile a recipe's step for TPUs or GPUs you don't have.

It reports whether the step fits into memory, what it moves, and how fast it can be.

Exit code 0: it fits; 3: it does not.
"""

import argparse
import sys

from cv3jax import recipes
from cv3jax.aot import topology
from cv3jax.cascade.sizes import parse_size
from cv3jax.commands import arguments as command_line
from cv3jax.distillation.parsing import parse_recipe
from cv3jax.distributed.backend import loading
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.terminal import tell

EXAMPLE = (
    "cv3jax compile --config=base_512 --topology v5e:16x16 --updates 200000 --json base_512.json"
)
STEPS = ("train", "later", "encode", "sample", "decode")
DRAWS = ("sample", "decode")
DOES_NOT_FIT = 3


def parser() -> Parser:
    """Return the parser of `cv3jax compile`."""
    made = command_line.command(
        "compile", __doc__, EXAMPLE, old={"--steps": "--updates"}, config=True
    )
    made.add_argument(
        "--topology",
        required=True,
        metavar="CHIP:SHAPE",
        help="the devices, such as v5e:16x16, v5p:8x8x4, h100:1x8x1, rtx4090:1x1x1",
    )
    made.add_argument(
        "--step",
        choices=STEPS,
        default="train",
        help=(
            "which program to compile (default: train); in a distillation, train is round 1 and"
            " later is any round after it"
        ),
    )
    made.add_argument(
        "--size",
        metavar="H[xW]",
        help=(
            "with --step sample or decode: one picture per device of that height and width in"
            " pixels, such as 4096 or 768x512 (default: the recipe's pictures)"
        ),
    )
    command_line.add_tile(made, "as a whole")
    made.add_argument(
        "--updates", type=int, metavar="N", help="estimate the chip-hours of N updates"
    )
    made.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        metavar="X",
        help="the MFU (model FLOPs utilization) of that estimate, 0..1 (default: 0.4)",
    )
    add_json(made)
    return made


def arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return (the flags, `--config.a.b=v` overrides). Raises InputError on wrong values."""
    args, overrides = parser().parse_known_args(argv)
    if args.updates is not None and args.updates < 1:
        raise InputError(f"--updates {args.updates}: must be at least 1")
    if not 0 < args.mfu <= 1:
        raise InputError(f"--mfu {args.mfu}: must be above 0 and at most 1, such as 0.4")
    if args.step not in DRAWS and (args.size is not None or args.tile):
        raise InputError(
            f"--{'tile' if args.size is None else 'size'} needs --step sample or decode,"
            " which make pictures; give one, or leave the flag out"
        )
    command_line.check_tile(args.tile)
    args.size = None if args.size is None else parse_size(args.size)
    check_json(args.json)
    topology.parse(args.topology)
    return args, overrides


def main(argv: list[str] | None = None) -> None:
    """Compile and report. Raises InputError on flags and fields that cannot be."""
    args, overrides = arguments(argv)
    settings = parse_recipe(recipes.load(args.config, overrides))

    with loading():
        import jax

        from cv3jax.aot.report import text
        from cv3jax.aot.run import run

    jax.config.update("jax_enable_compilation_cache", False)  # its seconds are part of the report
    with reporting(args.json) as report:
        figures = run(
            settings,
            args.topology,
            args.step,
            size=args.size,
            tile=args.tile or 0,
            steps=args.updates,
            mfu=args.mfu,
        )
        tell(text({"config": args.config, **figures}))
        report({"config": args.config, **figures})
    if not figures["fits"]:
        sys.exit(DOES_NOT_FIT)
