"""`cv3jax quickstart`: run the whole system on one CPU, and write a report.

It renders captioned scenes, trains an autoencoder, a base and a relay on them, and distils both.
The report shows what they make of captions that they never saw. Killed and started again, it
resumes.
"""

from cv3jax.commands import arguments as command_line
from cv3jax.distributed.backend import loading
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.files import check_directory
from data_pipeline.io.progress import say

EXAMPLE = "cv3jax quickstart --workdir runs/quickstart"


def parser() -> Parser:
    """Return the parser of `cv3jax quickstart`."""
    made = command_line.command("quickstart", __doc__, EXAMPLE)
    command_line.add_workdir(made)
    made.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of data, weights and samples (default: %(default)s)",
    )
    made.add_argument(
        "--install-seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds that the set-up took, for the report",
    )
    made.add_argument(
        "--tiny",
        action="store_true",
        help="tiny sizes, to test that everything runs; the pictures will be noise",
    )
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Run the quickstart. Raises InputError on flags that cannot be."""
    args = parser().parse_args(argv)
    check_directory(args.workdir, "--workdir")
    check_json(args.json)
    if not 0 <= args.install_seconds < 1e6:
        raise InputError(
            f"--install-seconds {args.install_seconds}: must be a number of seconds, at least 0"
        )
    if not 0 <= args.seed < 2**31:
        raise InputError(f"--seed {args.seed}: must be 0..{2**31 - 1}")

    with loading():
        from cv3jax.quickstart.run import run

    with reporting(args.json) as report:
        made = run(args.workdir, install=args.install_seconds, seed=args.seed, tiny=args.tiny)
        report(made)
    say(f"{made['seconds']['total']:.0f} s in all; open {args.workdir}/report.html")
