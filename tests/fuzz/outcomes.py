"""Tell how a fuzzing campaign ended, and keep it beside the other campaigns' results."""

import argparse
import dataclasses
import json
import platform
import sys
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a campaign did.

    Attributes:
        seed: of the first try.
        seconds: that it took.
        tries: inputs that were made and read.
        past_first_check: those that came past the reader's first check: the parser of JSON or YAML,
            the first header of a tar, the footer of a parquet file.
        accepted: those in which nothing was refused, damaged or left out.
        failures: crashes, hangs and floods of memory; of one kind, only the first counts.
    """

    seed: int
    seconds: float
    tries: int
    past_first_check: int
    accepted: int
    failures: int


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    told = "write the counts into this file, beside those of other fuzzers"
    parser.add_argument("--json", type=Path, metavar="FILE", help=told)


def told(file: Path | None, outcome: Outcome) -> int:
    """Print the counts, and keep them in `file`. Returns the exit code, 1 after a failure."""
    share = outcome.past_first_check / max(outcome.tries, 1)
    print(
        f"{outcome.tries:,} tries, {share:.0%} past the first check, {outcome.accepted:,} accepted,"
        f" {outcome.failures} failures"
    )
    if file:
        kept = json.loads(file.read_text()) if file.is_file() else {}
        made = {**dataclasses.asdict(outcome), "seconds": round(outcome.seconds, 1)}
        made |= {"share_past_first_check": round(share, 3), "python": platform.python_version()}
        kept[Path(sys.argv[0]).stem] = made
        file.write_text(json.dumps(dict(sorted(kept.items())), indent=2) + "\n")
    return 1 if outcome.failures else 0
