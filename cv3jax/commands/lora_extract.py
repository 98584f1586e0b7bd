"""`cv3jax lora extract`: a full fine-tune as an adapter, by the singular values of its change.

It keeps the largest ones. What share of the change they hold, its energy, is printed.
"""

from pathlib import Path

from cv3jax.checkpoints import cascades
from cv3jax.commands import arguments as command_line
from cv3jax.commands import lora_flags
from cv3jax.distributed.backend import loading
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting, tell_json
from data_pipeline.io.progress import say

EXAMPLE = """cv3jax lora extract --checkpoint runs/tuned --original scenes --stage base --rank 16 \\
      --out tuned.safetensors
  cv3jax lora extract --checkpoint runs/tuned --original scenes --stage base --energy 0.9 \\
      --out tuned.safetensors"""
RANK, MOST = 16, 1024  # without --rank and --energy; with --energy alone


def parser() -> Parser:
    """Return the parser of `cv3jax lora extract`."""
    made = command_line.command("lora extract", __doc__, EXAMPLE)
    command_line.add_checkpoint(made, "the fine-tune: a cascade directory or a --workdir")
    made.add_argument(
        "--original",
        required=True,
        type=Path,
        metavar="DIR",
        help="the checkpoint that it was fine-tuned from",
    )
    lora_flags.add_stage(made, "the stage that was fine-tuned", required=True)
    made.add_argument(
        "--rank",
        type=int,
        metavar="R",
        help=f"the largest rank of a layer (default: {RANK}, or {MOST} with --energy)",
    )
    made.add_argument(
        "--energy",
        type=float,
        metavar="E",
        help="the share of a layer's squared change that is enough, above 0 and at most 1",
    )
    made.add_argument(
        "--to",
        choices=lora_flags.FORMATS,
        default="native",
        help="the format of the file (default: %(default)s)",
    )
    made.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the adapter's file, or PEFT's folder",
    )
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Extract. Raises InputError on flags and files that cannot be."""
    args = parser().parse_args(argv)
    if args.rank is not None and not 1 <= args.rank <= 8192:
        raise InputError(f"--rank {args.rank}: must be 1..8192")
    if args.energy is not None and not 0 < args.energy <= 1:
        raise InputError(f"--energy {args.energy}: must be above 0 and at most 1")
    lora_flags.check_out(args.out, args.to)
    check_json(args.json)
    places = []
    for flag, path in (("--checkpoint", args.checkpoint), ("--original", args.original)):
        directory, description = cascades.read_cascade(cascades.pinned(path))
        if args.stage not in description.stages:
            raise InputError(f"{flag} {path} has no {args.stage}; give another --stage")
        places.append((cascades.place_of(directory, args.stage), description.stages[args.stage]))

    with loading():
        from cv3jax.adapters import formats
        from cv3jax.adapters.extraction import Cut, extract
        from cv3jax.adapters.trees import ranks_text
        from cv3jax.checkpoints import streaming

    rank = args.rank or (RANK if args.energy is None else MOST)
    with reporting(args.json) as report:
        for (place, within), _ in places:
            cascades.check_part(place.parent if within else place)
        trees = [streaming.open_tree(place, within) for (place, within), _ in places]
        found = extract(*trees, places[0][1], Cut(rank, args.energy or 1.0))
        formats.write(args.out, found.adapter, args.to)
        ranks = ranks_text(int(row["rank"]) for row in found.layers.values())
        say(
            f"{args.out}: {len(found.layers)} layers of rank {ranks}, which keep"
            f" {100 * found.energy:.1f} % of the energy of the weights' change"
        )
        if found.others:
            say(
                f"{found.others} other arrays differ, norms and biases, which no adapter holds:"
                f" {100 * found.outside:.2g} % of the whole change"
            )
        figures = {name: getattr(found, name) for name in ("layers", "energy", "outside", "others")}
        report({"out": str(args.out), "stage": args.stage, **figures})
        tell_json({"out": str(args.out), "energy": found.energy})
