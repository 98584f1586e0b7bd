"""The flags of `evaluate` for pictures of other models, and for the time of drawing."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cv3jax.cascade.sizes import parse_size
from cv3jax.commands import expansion_flags
from cv3jax.commands.sample import MAX_BATCH
from cv3jax.evaluation.baselines.models import NAMES, open_model
from cv3jax.evaluation.prompt_sets import PromptSet
from cv3jax.sampling.inputs import LAST_SEED
from data_pipeline.io import extras
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError

BATCH = 4  # as the paper measures
# flags of drawing with a cascade alone
OF_CASCADES = ("mesh", "tile", "expand")
Draw = Callable[[Path], tuple[Path, dict[str, Any] | None]]


def add_model(what: argparse._ActionsContainer) -> None:
    """Add --model, which says what draws."""
    what.add_argument(
        "--model",
        metavar="NAME|DIR",
        help=(
            f"draw the pictures with another model, by diffusers: {', '.join(NAMES)} of --models,"
            " or the folder of a pipeline; nothing is downloaded"
        ),
    )


def add_models(made: Parser) -> None:
    """Add --models and --time."""
    made.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="directory with the folders of --model: sdxl/, stable-cascade/, lcm-sdxl/",
    )
    made.add_argument(
        "--time",
        action="store_true",
        help=f"also measure the time of {BATCH} pictures at once, warm, for the report",
    )


def drawer(args: argparse.Namespace, prompts: PromptSet) -> Draw:
    """Return the function that draws with --model: it returns the pictures' folder, and the time.

    Raises InputError on flags that the model cannot draw with; nothing is loaded yet.
    """
    for name in OF_CASCADES:
        if getattr(args, name) is not None:
            raise InputError(f"--{name} goes with --checkpoint; --model draws without it")
    if args.attention != "auto":
        raise InputError("--attention goes with --checkpoint; --model draws without it")
    expansion_flags.expansion_of(args)  # flags of an expansion that is not asked for
    extras.check("--model", "diffusers", "torch", "accelerate", extra="eval")
    num, seed = args.num or 1, args.seed or 0
    batch = BATCH if args.batch is None else args.batch
    if not 0 <= seed <= LAST_SEED:
        raise InputError(f"--seed {seed}: must be 0..{LAST_SEED}")
    if not 1 <= batch <= MAX_BATCH:
        raise InputError(f"--batch {batch}: must be 1..{MAX_BATCH}")
    model = open_model(
        args.model,
        args.models,
        None if args.size is None else parse_size(args.size),
        _numbers(args.steps, "steps", int, 1, 1000),
        _numbers(args.guidance, "guidance", float, 0.0, 100.0),
    )

    def draw(out: Path) -> tuple[Path, dict[str, Any] | None]:
        from cv3jax.evaluation.baselines import drawing

        settings, artist = drawing.Drawing(model, batch, seed), drawing.Artist(model)
        folder = drawing.draw(settings, artist, prompts, num, out)
        timing = drawing.time_of(settings, artist, prompts, out) if args.time else None
        return folder, timing

    return draw


def _numbers(text: str | None, flag: str, kind: type, low: float, high: float) -> tuple:
    """Parse `--steps 20,10` into (20, 10). Raises InputError where it cannot be."""
    if text is None:
        return ()
    try:
        values = tuple(kind(value) for value in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(low <= value <= high for value in values):
        name = "whole numbers" if kind is int else "numbers"
        raise InputError(f"--{flag} {text}: give {name} in {low:g}..{high:g}, separated by commas")
    return values
