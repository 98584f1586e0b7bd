"""`cv3jax ema`: make another EMA of a trained run, of any length, after the training.

The run must have been trained with optim.posthoc above 0 (Karras et al., arXiv:2312.02696).
"""

from pathlib import Path

from cv3jax.commands import arguments as command_line
from cv3jax.distributed.backend import loading
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting, tell_json
from data_pipeline.io.staging import check_new

EXAMPLE = "cv3jax ema runs/base --sigma-rel 0.08 --out runs/base_ema"
LEAST, MOST = 0.01, 0.28  # of --sigma-rel


def parser() -> Parser:
    """Return the parser of `cv3jax ema`."""
    made = command_line.command("ema", __doc__, EXAMPLE)
    made.add_argument("workdir", type=Path, metavar="WORKDIR", help="of the run")
    made.add_argument(
        "--sigma-rel",
        type=float,
        required=True,
        metavar="S",
        help=f"length of the average as a share of the training, {LEAST}..{MOST}",
    )
    made.add_argument(
        "--at-step",
        type=int,
        metavar="N",
        help="snapshot at which the average ends (default: the last one)",
    )
    command_line.add_out(made, "the cascade to make; it appears when it is complete")
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Make the cascade. Raises InputError on a run without snapshots."""
    args = parser().parse_args(argv)
    check_new(args.out)
    check_json(args.json)
    if not LEAST <= args.sigma_rel <= MOST:
        raise InputError(f"--sigma-rel {args.sigma_rel}: must be {LEAST}..{MOST}")
    if not args.workdir.is_dir():
        raise InputError(f"WORKDIR {args.workdir}: there is no such directory")

    with loading():
        from cv3jax.training.posthoc import reconstruct

    with reporting(args.json) as report:
        figures = reconstruct(args.workdir, args.sigma_rel, args.out, args.at_step)
        report({"out": str(args.out), **figures})
        tell_json({"out": str(args.out)})
