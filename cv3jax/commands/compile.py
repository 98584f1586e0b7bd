"""`cv3jax compile`: a recipe's step compiled for hardware that is not here; whether it fits, what
it moves, how fast it can go.

Exit code 0: it fits; 3: it does not.
"""

import argparse
import sys
from pathlib import Path

from cv3jax import recipes
from cv3jax.commands import arguments as command_line
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_file, write_json

EXAMPLE = (
    "cv3jax compile --config=base_512 --topology v5e:16x16 --steps 200000 --json base_512.json"
)
STEPS = ("train", "later", "encode", "sample")
DOES_NOT_FIT = 3


def arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """(the flags, `--config.a.b=v` overrides). Raises InputError on a value that cannot be."""
    parser = command_line.command(
        "compile",
        __doc__,
        f"{EXAMPLE}\n\nrecipes: {', '.join(recipes.recipes())} (each also :tiny)",
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="NAME[:VARIANT]|FILE.py",
        help="the recipe; any field: --config.batch.size=1024",
    )
    parser.add_argument(
        "--topology",
        required=True,
        metavar="CHIP:SHAPE",
        help="as v5e:16x16, v5p:8x8x4, v6e:8x8, h100:1x8x1",
    )
    parser.add_argument(
        "--step",
        choices=STEPS,
        default="train",
        help=(
            "which program of the recipe (default: train); a distillation's: train of round 1,"
            " later of the others"
        ),
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="estimate the chip-hours of so many steps"
    )
    parser.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        metavar="X",
        help="the MFU of that estimate, 0..1 (default: 0.4)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    args, overrides = parser.parse_known_args(argv)
    if args.steps is not None and args.steps < 1:
        raise InputError(f"--steps {args.steps}: must be at least 1")
    if not 0 < args.mfu <= 1:
        raise InputError(f"--mfu {args.mfu}: must be above 0 and at most 1, as 0.4")
    check_file(args.json, "--json")
    return args, overrides


def main(argv: list[str] | None = None) -> None:
    args, overrides = arguments(argv)

    import jax

    from cv3jax.aot.report import text
    from cv3jax.aot.run import run
    from cv3jax.distillation.parsing import parse_recipe

    jax.config.update("jax_enable_compilation_cache", False)  # its seconds are part of the report
    figures = run(
        parse_recipe(recipes.load(args.config, overrides)),
        args.topology,
        args.step,
        steps=args.steps,
        mfu=args.mfu,
    )
    print(text({"config": args.config, **figures}))
    write_json(args.json, {"config": args.config, **figures})
    if not figures["fits"]:
        sys.exit(DOES_NOT_FIT)


if __name__ == "__main__":
    from cv3jax.cli import run_command

    run_command(main)
