r"""Print or run one `cv3jax train` command for each point of a recipe's `sweep()`.

Each point has its own workdir.

    python launch/sweep.py --config=relay_1024 --workdir runs/ablation -- \
        --config.data.path=DATA --config.cascade=runs/base --config.init_from=runs/sr
    python launch/sweep.py --config=relay_1024 --workdir runs/ablation \
        --launcher="sbatch --nodes=4 launch/slurm.sh --" | sh
    python launch/sweep.py --config=scenes_relay --workdir runs/ablation --run -- \
        --config.cascade=runs/base --config.init_from=runs/base

`sweep()` yields dicts such as {"schedule.start": 200}. The words of `--launcher` are put in front
of each printed line; {index} in them becomes the number of the point. `--run` runs the points one
after the other in this terminal. If it is stopped, the same command resumes.
"""

import argparse
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from cv3jax import recipes
from cv3jax.cli import run_command
from data_pipeline.io.errors import InputError


def commands(spec: str, workdir: Path, overrides: list[str]) -> list[list[str]]:
    """Return the commands, one for each point, after a check of each against the recipe.

    Raises:
        InputError: there is no sweep, a field or value is not one of the recipe's, a swept field is
            also overridden, or two points are equal.
    """
    lines = {}
    for point in recipes.sweep_points(spec):
        settings = recipes.sweep_flags(spec, point, overrides)
        name = recipes.point_name(point)
        if name in lines:
            raise InputError(
                f"--config={spec}: two points of its sweep() have the same workdir"
                f" {workdir / name}; give points with different values"
            )
        lines[name] = [
            "cv3jax",
            "train",
            f"--config={spec}",
            "--workdir",
            str(workdir / name),
            *settings,
            *overrides,
        ]
    return list(lines.values())


def printed(lines: list[list[str]], launcher: str) -> list[str]:
    """Return the lines for a shell. `launcher` is shell text too, so it is not quoted."""
    return [
        " ".join([*([launcher.replace("{index}", str(i))] if launcher else []), shlex.join(line)])
        for i, line in enumerate(lines)
    ]


def run_all(lines: list[list[str]]) -> int:
    """Run the commands one after the other, and return the exit code.

    After a run that fails, the next one runs. After a signal or exit code 2, none does.

    The exit code is 0 when all ended well, 1 when any failed, 2 when one was refused, and 143 or
    130 after SIGTERM or Ctrl-C.
    """
    stopped, told, failed, child = [], [], [], None

    def tell():
        if child and not told:  # a second SIGTERM would end the save
            told.append(child.pid)
            child.terminate()

    def stop(number, frame):
        stopped.append(number)
        if number == signal.SIGTERM:  # a terminal's Ctrl-C reaches the child by itself
            tell()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for i, line in enumerate(lines):
        print(
            f"sweep: point {i + 1} of {len(lines)}: {shlex.join(line)}", file=sys.stderr, flush=True
        )
        child = subprocess.Popen([sys.executable, "-m", "cv3jax", *line[1:]])
        if stopped:  # a signal came just before the child existed
            tell()
        code = child.wait()
        child = None
        if stopped or code == 2:
            why = (
                f"stopped by {signal.Signals(stopped[0]).name}"
                if stopped
                else "exit code 2, which means that the command's input has to change"
            )
            print(
                f"sweep: {why}, at point {i + 1} of {len(lines)}; run the same command to resume",
                file=sys.stderr,
            )
            return 128 + stopped[0] if stopped else 2
        if code:
            failed.append(f"{i + 1} (exit code {code})")
    if failed:
        print(
            f"sweep: failed points: {', '.join(failed)}; run the same command to try them again",
            file=sys.stderr,
        )
    return int(bool(failed))


def main(argv: list[str] | None = None) -> None:
    """Print or run the points of the sweep."""
    parser = argparse.ArgumentParser(
        prog="python launch/sweep.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", required=True, metavar="NAME[:VARIANT]|FILE.py", help="a recipe with a sweep()"
    )
    parser.add_argument(
        "--workdir",
        required=True,
        type=Path,
        help="directory under which each point has its workdir",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--run", action="store_true", help="run the points here, one after the other")
    how.add_argument(
        "--launcher",
        default="",
        metavar="WORDS",
        help='words before each printed command, such as "sbatch --nodes=4 launch/slurm.sh --"',
    )
    args, overrides = parser.parse_known_args(argv)
    lines = commands(args.config, args.workdir, [o for o in overrides if o != "--"])
    if args.run:
        sys.exit(run_all(lines))
    print("\n".join(printed(lines, args.launcher)))


if __name__ == "__main__":
    run_command(main)
