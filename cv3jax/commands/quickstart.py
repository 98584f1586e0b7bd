"""`cv3jax quickstart`: the whole system on one CPU. Renders captioned scenes, trains autoencoder,
base and relay, distils both, and shows what they make of captions they never saw, in one report.
Killed and started again it continues.
"""

import sys
from pathlib import Path

from cv3jax.commands import arguments as command_line
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory, check_file, write_json

EXAMPLE = "cv3jax quickstart --workdir runs/quickstart"


def main(argv: list[str] | None = None) -> None:
    parser = command_line.command("quickstart", __doc__, EXAMPLE)
    parser.add_argument(
        "--workdir",
        required=True,
        type=Path,
        help="where everything goes; an existing one continues",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of data, weights and samples (default 0)"
    )
    parser.add_argument(
        "--install-seconds",
        type=float,
        default=0.0,
        help="how long the set-up took, for the report",
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="sizes that only exercise the machinery: pictures will be noise",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write report.json there")
    args = parser.parse_args(argv)
    check_directory(args.workdir, "--workdir")
    check_file(args.json, "--json")
    if not 0 <= args.install_seconds < 1e6:
        raise InputError(
            f"--install-seconds {args.install_seconds}: a number of seconds, 0 or more"
        )
    if not 0 <= args.seed < 2**31:
        raise InputError(f"--seed {args.seed}: 0..{2**31 - 1}")

    from cv3jax.quickstart.run import run

    report = run(args.workdir, install=args.install_seconds, seed=args.seed, tiny=args.tiny)
    write_json(args.json, report)
    print(
        f"{report['seconds']['total']:.0f} s in all; open {args.workdir}/report.html",
        file=sys.stderr,
    )


if __name__ == "__main__":
    from cv3jax.cli import run_command

    run_command(main)
