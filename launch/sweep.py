r"""Print or run one `cv3jax train` or `distill` command for each point of a recipe's `sweep()`.

Each point has its own workdir.

    python launch/sweep.py --config=relay_1024 --workdir runs/ablation -- \
        --config.data.path=DATA --config.cascade=runs/base --config.init_from=runs/sr
    python launch/sweep.py --config=relay_1024 --workdir runs/ablation \
        --launcher="sbatch --nodes=4 launch/slurm.sh --" | sh
    python launch/sweep.py --config=scenes_relay --workdir runs/ablation --run --jobs 2 -- \
        --config.cascade=runs/base --config.init_from=runs/base
    python launch/sweep.py --config=scenes_relay --workdir runs/ablation --results

`sweep()` yields dicts such as {"schedule.start": 200}. The words of `--launcher` are put in front
of each printed line; {index} in them becomes the number of the point.

`--run` runs the points here, --jobs of them at a time, and then writes sweep.md, sweep.json and
sweep.png under the workdir: what each run reached, and their losses in one plot. `--results` writes
these of the runs so far. If `--run` is stopped, the same command resumes. With several jobs each
writes to sweep_N.log, and where CUDA_VISIBLE_DEVICES names GPUs, they are shared out evenly.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from cv3jax import recipes
from cv3jax.cli import run_command
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import write_json


def commands(spec: str, workdir: Path, overrides: list[str]) -> list[list[str]]:
    """Return the commands, one for each point, after a check of each against the recipe.

    Raises:
        InputError: there is no sweep, a field or value is not one of the recipe's, a swept field is
            also overridden, or two points are equal.
    """
    lines, kind = {}, "distill" if "distill" in recipes.load(spec, []) else "train"
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
            kind,
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


class Sweep:
    """The runs of a sweep on this machine, some of them at a time."""

    def __init__(self, lines: list[list[str]], workdir: Path, jobs: int):
        """Store the commands. jobs: how many run at once."""
        self.lines, self.workdir, self.jobs = lines, workdir, jobs
        self.running: dict[int, subprocess.Popen] = {}
        self.places = dict.fromkeys(range(jobs))  # job → the point that it runs
        self.stopped: list[int] = []
        self.told: set[int] = set()

    def run(self) -> int:
        """Run the commands, and return the exit code.

        After a run that fails, the others run. After a signal or exit code 2, no further one
        begins, and those that run are asked to end.

        The exit code is 0 when all ended well, 1 when any failed, 2 when one was refused, and 143
        or 130 after SIGTERM or Ctrl-C.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        left, failed, refused = list(range(len(self.lines))), [], None
        while self.running or (left and refused is None and not self.stopped):
            while left and len(self.running) < self.jobs and refused is None and not self.stopped:
                self._start(left.pop(0))
            if self.stopped:  # a signal may have come just before a child existed
                self._tell()
            for point, code in self._ended():
                if code == 2 and refused is None:
                    refused = point
                    self._tell()
                elif code:
                    failed.append(f"{point + 1} (exit code {code})")
            time.sleep(0.05)
        if self.stopped or refused is not None:
            why = (
                f"stopped by {signal.Signals(self.stopped[0]).name}"
                if self.stopped
                else "exit code 2, which means that the command's input has to change"
            )
            at = refused if refused is not None else len(self.lines) - len(left) - 1
            say(f"{why}, at point {at + 1} of {len(self.lines)}; run the same command to resume")
            return 128 + self.stopped[0] if self.stopped else 2
        if failed:
            say(f"failed points: {', '.join(failed)}; run the same command to try them again")
        return int(bool(failed))

    def _start(self, point: int) -> None:
        line = self.lines[point]
        job = next(job for job, at in self.places.items() if at is None)
        self.places[job] = point
        log = self.workdir / f"sweep_{point + 1}.log" if self.jobs > 1 else None
        where = "" if log is None else f", in {log}"
        say(f"point {point + 1} of {len(self.lines)}{where}: {shlex.join(line)}")
        with contextlib.ExitStack() as stack:
            out = None
            if log is not None:
                self.workdir.mkdir(parents=True, exist_ok=True)
                out = stack.enter_context(log.open("ab"))
            self.running[point] = subprocess.Popen(
                [sys.executable, "-m", "cv3jax", *line[1:]],
                stdout=out,
                stderr=out,
                env=environment(job, self.jobs),
            )

    def _ended(self) -> list[tuple[int, int]]:
        """Return (point, exit code) of the runs that have ended."""
        done = [(k, one.poll()) for k, one in self.running.items() if one.poll() is not None]
        for point, _ in done:
            del self.running[point]
            self.places = {job: None if at == point else at for job, at in self.places.items()}
        return done

    def _signalled(self, number: int, frame: object) -> None:
        self.stopped.append(number)
        if number == signal.SIGTERM:  # a terminal's Ctrl-C reaches the children by itself
            self._tell()

    def _tell(self) -> None:
        """Ask the runs to end, each once: a second SIGTERM would end the save."""
        if self.stopped and self.stopped[0] != signal.SIGTERM:
            return
        for one in list(self.running.values()):
            if one.pid not in self.told and one.poll() is None:
                self.told.add(one.pid)
                one.terminate()


def environment(job: int, jobs: int) -> dict[str, str]:
    """Return the environment of a job: its share of the GPUs in CUDA_VISIBLE_DEVICES.

    Raises InputError where they cannot be shared out evenly.
    """
    found = dict(os.environ)
    gpus = [one for one in found.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    if jobs > 1 and gpus:
        if len(gpus) % jobs:
            raise InputError(
                f"--jobs {jobs}: CUDA_VISIBLE_DEVICES names {len(gpus)} GPUs; give a number of jobs"
                " that divides it"
            )
        each = len(gpus) // jobs
        found["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[job * each : (job + 1) * each])
    return found


def write_results(lines: list[list[str]], workdir: Path) -> str:
    """Write sweep.md, sweep.json and sweep.png of the runs so far; return the table."""
    from cv3jax.training.sweeps import draw, result_of, table, to_json

    results = [result_of(Path(line[line.index("--workdir") + 1])) for line in lines]
    workdir.mkdir(parents=True, exist_ok=True)
    shown = table(results)
    (workdir / "sweep.md").write_text(f"{shown}\n")
    write_json(workdir / "sweep.json", to_json(results))
    draw(results, workdir / "sweep.png")
    return shown


def say(text: str) -> None:
    """Print a line on stderr."""
    progress.say(f"sweep: {text}")


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
    how.add_argument("--run", action="store_true", help="run the points here")
    how.add_argument(
        "--launcher",
        default="",
        metavar="WORDS",
        help='words before each printed command, such as "sbatch --nodes=4 launch/slurm.sh --"',
    )
    how.add_argument(
        "--results", action="store_true", help="write what the runs have reached so far"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="points at a time, with --run (default: 1)"
    )
    args, overrides = parser.parse_known_args(argv)
    if not 1 <= args.jobs <= 1000:
        raise InputError(f"--jobs {args.jobs}: must be 1..1000")
    if args.jobs > 1 and not args.run:
        raise InputError("--jobs needs --run, which runs the points here")
    lines = commands(args.config, args.workdir, [o for o in overrides if o != "--"])
    code = 0
    if args.run:
        environment(0, args.jobs)
        code = Sweep(lines, args.workdir, args.jobs).run()
    if args.results or (args.run and code in (0, 1)):
        print(write_results(lines, args.workdir), flush=True)
    if not (args.run or args.results):
        print("\n".join(printed(lines, args.launcher)))
    if code:
        sys.exit(code)


if __name__ == "__main__":
    run_command(main)
