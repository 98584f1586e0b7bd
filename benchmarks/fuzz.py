"""Run the fuzzers of foreign files one after the other, and keep their counts.

python benchmarks/fuzz.py --json benchmarks/results/fuzz.json

It takes the given seconds for each of the four. The exit code is 1 after a failure, which the
fuzzer prints.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

FUZZERS = ("tars", "parquets", "descriptions", "settings")


def run(name: str, seconds: float) -> dict:
    """Return the counts of a fuzzer that runs in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "counts.json"
        script = measure.ROOT / "tests" / "fuzz" / f"{name}.py"
        subprocess.run(
            [sys.executable, str(script), "--seconds", str(seconds), "--json", str(file)],
            check=False,
        )
        if not file.exists():
            sys.exit(f"{name}: it ended without counts")
        found = json.loads(file.read_text())[name]
    return {**found, "revision": measure.revision(measure.ROOT) or "none"}


def main() -> None:
    """Run all fuzzers; exit with 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="of each (default: %(default)g)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there")
    args = parser.parse_args()
    fuzzers = {name: run(name, args.seconds) for name in FUZZERS}
    measure.write_json(args.json, {**measure.facts(), "fuzzers": fuzzers})
    sys.exit(any(found["failures"] for found in fuzzers.values()))


if __name__ == "__main__":
    main()
