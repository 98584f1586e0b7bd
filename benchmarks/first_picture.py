"""Measure the time from `cv3jax sample` to the first picture of the packaged scenes, warm.

    python benchmarks/first_picture.py --against ../before --rounds 7

Every time is that of a whole process, from its start to its end, which is the time of a user who
types the command. Before, each side draws twice, so that its programs are compiled and kept, and
its files are in the system's memory. Each side has a home of its own, and with it a compilation
cache. --against is a checkout of an earlier state; both take turns. Exits 1 if the median of this
checkout is above 4 s.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

MOST = 4.0  # seconds
PROMPT = "a small green star, black background"


class Side:
    """A checkout that draws pictures, each in a new process."""

    def __init__(self, checkout: Path, home: Path):
        """Draw twice, untimed."""
        self.checkout, self.home = checkout.resolve(), home
        home.mkdir()
        self.pictures = [self.draw(home / f"warm{i}")[1] for i in range(2)]

    def __call__(self) -> float:
        """Return the seconds from the start of the command to its end."""
        with tempfile.TemporaryDirectory() as folder:
            return self.draw(Path(folder) / "out")[0]

    def draw(self, out: Path) -> tuple[float, bytes]:
        """Return the seconds of a drawing into `out`, and the picture's file."""
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMP", "JAX_PERS"))}
        command = [sys.executable, "-m", "cv3jax", "sample", "--checkpoint", "scenes"]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, "--prompt", PROMPT, "--out", str(out)],
            env={**plain, "HOME": str(self.home), "PYTHONPATH": str(self.checkout)},
            cwd=self.home,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"{self.checkout}: {done.stderr[-500:]}")
        return seconds, next(out.glob("00_*.png")).read_bytes()


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="a checkout of an earlier state")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if args.against is not None and not (args.against / "cv3jax").is_dir():
        parser.error(f"--against {args.against}: there is no cv3jax")
    facts = measure.facts()
    with tempfile.TemporaryDirectory() as homes:
        checkouts = {"now": measure.ROOT} | ({"before": args.against} if args.against else {})
        sides = {name: Side(path, Path(homes) / name) for name, path in checkouts.items()}
        took = measure.turns(sides, args.rounds, lambda line: print(line, flush=True))
        same = len({side.pictures[-1] for side in sides.values()}) == 1
    figures = {**facts, "prompt": PROMPT, "seconds": took}
    rows = [("now", measure.spread(took["now"]), "")]
    if args.against is not None:
        ratio = measure.ratios(took["now"], took["before"])
        before = measure.revision(args.against)
        figures |= {"before": before, "ratio": ratio, "the same picture": same}
        rows = [("now", measure.spread(took["now"]), ratio)]
        rows += [(f"before ({before})", measure.spread(took["before"]), "")]
        print(f"the same picture to the byte: {same}")
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print(measure.table(("", "s to the end of the command", "of the time before"), rows))
    measure.write_json(args.json, figures)
    if (median := measure.spread(took["now"]).median) > MOST:
        sys.exit(f"{median:.2f} s to the first picture (bar: {MOST})")


if __name__ == "__main__":
    main()
