"""Run all campaigns of attacks, one after the other: what `make attack` does.

    python tests/attack/every.py [--fuzz-seconds 45] [--only tables fuzz ...] [--json FILE]

The campaigns are the tables of hostile inputs that are tests, the flipped bits, the fuzzers, the
limits of the machine and the signals. Each is a program of its own. It prints a line when one
begins and ends, and one each half minute; at the end the table of tries, held and failed. It exits
with 1 where one failed.
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import browser
from heeded import heed_in_children
from rows import Row, table

ROOT = Path(__file__).resolve().parents[2]
OFTEN = 30.0  # seconds between two lines of a campaign that runs
SHOWN = 1500  # characters of a program's last words, where they are no table

# of inputs that were written by hand: what is attacked → the files of tests
TABLES = {
    "tars and parquet files": ["sources/test_hostile_shards.py"],
    "images": ["images/test_hostile_images.py"],
    "files of other kinds": [
        "system/test_special_files.py",
        "io/test_headers.py",
        "io/test_unpacking.py",
        "weights/test_convert_damaged.py",
    ],
    "settings": [
        "system/test_parsers.py",
        "io/test_bounded_json.py",
        "io/test_bounded_yaml.py",
        "builder/test_blocklist.py",
    ],
    "descriptions": [
        "checkpoints/test_description_altered.py",
        "checkpoints/test_stored_sizes.py",
        "checkpoints/test_part_unpacking.py",
        "checkpoints/test_description_digest.py",
        "loading/test_tokenizer_damaged.py",
    ],
    "words on a terminal": [
        "io/test_terminal.py",
        "io/test_error_lines.py",
        "system/test_words_from_outside.py",
    ],
    "words in pages": ["system/test_hostile_pages.py"],
    "secrets": ["recaption/test_recaption_secret.py", "serving/test_bench_serve_hostile.py"],
    "checksums": [
        "weights/test_convert_integrity.py",
        "recaption/test_journal_sums.py",
        "serving/test_http_journal_damage.py",
    ],
    "what commands keep": ["system/test_kept_files.py", "io/test_kept_fields.py"],
    "adapters": [
        "adapters/test_adapters_bad.py",
        "adapters/test_adapters_hostile.py",
        "adapters/test_lora_flags.py",
    ],
    "fine-tuning": ["lora/test_finetune_hostile.py"],
    "failing disks": ["system/test_faults_disks.py", "builder/test_machine_errors.py"],
}
FUZZERS = ("tars", "parquets", "descriptions", "settings")


class Campaign(NamedTuple):
    """A program: its words, about how many seconds it takes, and its rows from what it printed.

    `rows` takes (stdout, exit code). A file in place of `{json}` in the words is read in its place.
    """

    words: tuple[str, ...]
    seconds: float
    rows: Callable[[str, int], list[Row]]


def tested(what: str) -> Callable[[str, int], list[Row]]:
    """Return what reads pytest's last line."""

    def rows(said: str, code: int) -> list[Row]:
        counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|error)s?\b", said)}
        held, failed = counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0)
        names = "; ".join(re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE))
        if code and not failed:
            return [Row("tables", what, held + 1, held, 1, f"pytest ended with {code}")]
        return [Row("tables", what, held + failed, held, failed, names)]

    return rows


def fuzzed(what: str) -> Callable[[str, int], list[Row]]:
    """Return what reads a fuzzer's last line."""

    def rows(said: str, code: int) -> list[Row]:
        found = re.search(r"([\d,]+) tries.*?([\d,]+) (?:kinds of crash|crashes|failures)", said)
        if not found:
            return [Row("fuzz", what, 1, 0, 1, f"it ended with {code}")]
        tries, failed = (int(number.replace(",", "")) for number in found.groups())
        if code and not failed:
            return [Row("fuzz", what, tries + 1, tries, 1, f"it ended with {code}")]
        notes = "; ".join(said.splitlines()[:-1])[:SHOWN] if failed else ""
        return [Row("fuzz", what, tries, tries - failed, failed, notes)]

    return rows


def flipped(said: str, code: int) -> list[Row]:
    """Return the rows of flips.py, whose lines are what, tries, noticed, harmless and failed."""
    found = re.findall(r"^(\S.*?)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)$", said, re.MULTILINE)
    rows = [
        Row("flipped bits", what, int(tries), int(noticed) + int(harmless), int(failed))
        for what, tries, noticed, harmless, failed in found
    ]
    if not rows or (code and not any(row.failed for row in rows)):
        rows.append(Row("flipped bits", "all", 1, 0, 1, f"it ended with {code}"))
    return rows


def stored(name: str) -> Callable[[str, int], list[Row]]:
    """Return what reads the rows that a campaign has written as JSON."""

    def rows(said: str, code: int) -> list[Row]:
        try:
            found = [Row(**row) for row in json.loads(said)]
        except ValueError:
            found = []
        if code and not any(row.failed for row in found):
            found.append(Row(name, "the campaign itself", 1, 0, 1, f"it ended with {code}"))
        return found

    return rows


def campaigns(seconds: float) -> dict[str, list[Campaign]]:
    """Return the campaigns by name; `seconds` is the time of each fuzzer."""
    made = {"tables": [], "fuzz": []}
    for what, files in TABLES.items():
        words = ("-m", "pytest", "-n", "0", "--durations=0", "-m", _marks())
        words += tuple(f"tests/{file}" for file in files)
        made["tables"].append(Campaign(words, 25, tested(what)))
    made["flips"] = [Campaign(("tests/attack/flips.py",), 150, flipped)]
    for name in FUZZERS:
        words = (f"tests/fuzz/{name}.py", "--seconds", str(seconds))
        made["fuzz"].append(Campaign(words, seconds + 5, fuzzed(name)))
    for name, file, takes in (("limits", "resources", 450), ("signals", "signals", 1300)):
        if (ROOT / "tests" / "attack" / f"{file}.py").is_file():
            words = (f"tests/attack/{file}.py", "--json", "{json}")
            made[name] = [Campaign(words, takes, stored(name))]
    return made


def _marks() -> str:
    """Return pytest's expression that leaves out what needs a browser where there is none."""
    return "not (slow or gpu)" if browser.path() else "not (slow or gpu or browser)"


def ended(campaign: Campaign, told: Callable[[float], None]) -> list[Row]:
    """Run a campaign, and return its rows. `told` is called with its seconds now and then."""
    with tempfile.TemporaryDirectory(prefix="cv3jax-attack-") as name:
        output, file = Path(name) / "output", Path(name) / "rows.json"
        words = [word.format(json=file) if word == "{json}" else word for word in campaign.words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        began, last = time.monotonic(), time.monotonic()
        with output.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, env=environment, stdout=out, stderr=out
            )
            try:
                while process.poll() is None:
                    time.sleep(0.1)
                    if time.monotonic() - last > OFTEN:
                        last = time.monotonic()
                        told(last - began)
            finally:
                process.terminate()
                process.wait()
        said = output.read_text(errors="replace")
        read = said if "{json}" not in campaign.words else file.read_text() if file.exists() else ""
        rows = campaign.rows(read, process.returncode)
        if any(row.failed for row in rows):
            print(said[-SHOWN:], file=sys.stderr)
        return rows


def main(argv: list[str] | None = None) -> int:
    """Run the campaigns, and print their table. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fuzz-seconds", type=float, default=45, help="of each fuzzer")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="names of campaigns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    args = parser.parse_args(argv)
    heed_in_children()
    known = campaigns(args.fuzz_seconds)
    if unknown := sorted({*(args.only or ())} - {*known}):
        parser.error(f"--only {unknown[0]}: give some of {', '.join(known)}")
    todo = [(name, one) for name in args.only or known for one in known[name]]
    rows, began = [], time.monotonic()
    for place, (name, campaign) in enumerate(todo):
        left = sum(one.seconds for _, one in todo[place + 1 :])

        def told(
            seconds: float, name: str = name, takes: float = campaign.seconds, left: float = left
        ) -> None:
            rest = max(takes - seconds, 0) + left
            print(f"{name}: {seconds:.0f} s so far, about {rest / 60:.0f} min left", flush=True)

        told(0.0)
        start = time.monotonic()
        found = ended(campaign, told)
        rows += found
        for row in found:
            line = f"{row.what}: {row.tries} tries, {row.held} held, {row.failed} failed"
            print(f"{name}: {line}, {time.monotonic() - start:.0f} s", flush=True)
    seconds = time.monotonic() - began
    print(f"{table(rows)}\n\n{seconds:.0f} s")
    if args.json:
        made = {"seconds": round(seconds), "rows": [dataclasses.asdict(row) for row in rows]}
        args.json.write_text(json.dumps(made, indent=2) + "\n")
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
