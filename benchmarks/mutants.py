"""Check that the tests catch mutants: small errors in the code that decides a training.

    python benchmarks/mutants.py
    python benchmarks/mutants.py --only text_dropout_never_drops

Each mutant makes one random draw wrong, or one argument that a recipe passes to a step. The table
is mutants.toml beside this file. The tracked files are copied to a temporary folder, as they are in
the working tree. The tests that the table names must pass there. Then each mutant in turn is
written into the copy, and its tests run. Exits 1 if a mutant survived.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import measure

from cv3jax.cli import run_command
from data_pipeline.io.errors import InputError

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".toml")
FAILED = 1  # pytest's exit code where tests ran and one failed; others are no answer


class Mutant(NamedTuple):
    """Describe a change of one file that must make some tests fail."""

    name: str
    of: str  # the recipe's field, or "draw: " and what is drawn
    file: str
    old: str  # occurs exactly once in the file
    new: str
    tests: tuple[str, ...]  # pytest's ids of those that must fail


class Verdict(NamedTuple):
    """Hold what became of a mutant."""

    mutant: Mutant
    caught: bool
    seconds: float
    said: str  # pytest's line of the test that failed


def read_table(path: Path = TABLE) -> list[Mutant]:
    """Return the mutants of the table, in its order.

    Raises:
        InputError: if an entry lacks a field or has an unknown one, if a name occurs twice, or if a
            change changes nothing.
    """
    entries = tomllib.loads(path.read_text())["mutant"]
    mutants = []
    for entry in entries:
        if entry.keys() != set(Mutant._fields):
            fields = ", ".join(Mutant._fields)
            raise InputError(f"{path}: {entry.get('name', entry)} must have exactly {fields}")
        mutants.append(Mutant(**{**entry, "tests": tuple(entry["tests"])}))
    names = [mutant.name for mutant in mutants]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: {', '.join(twice)} is there twice")
    if same := [mutant.name for mutant in mutants if mutant.old == mutant.new]:
        raise InputError(f"{path}: {', '.join(same)} changes nothing")
    return mutants


def mutated(mutant: Mutant, root: Path) -> str:
    """Return the text of the mutant's file with its change.

    Raises:
        InputError: if there is no such file, or the old text does not occur exactly once in it.
    """
    path = root / mutant.file
    if not path.is_file():
        raise InputError(f"mutant {mutant.name}: there is no file {mutant.file}")
    text = path.read_text()
    if (count := text.count(mutant.old)) != 1:
        raise InputError(
            f"mutant {mutant.name}: {mutant.old!r} occurs {count} times in {mutant.file}, must be"
            " once; mend benchmarks/mutants.toml"
        )
    return text.replace(mutant.old, mutant.new)


def chosen(mutants: Sequence[Mutant], only: Sequence[str]) -> list[Mutant]:
    """Return the mutants of the names `only`, or all if it is empty.

    Raises:
        InputError: if a name is unknown.
    """
    known = {mutant.name: mutant for mutant in mutants}
    if unknown := [name for name in only if name not in known]:
        raise InputError(f"--only {', '.join(unknown)}: no such mutant; they are in {TABLE.name}")
    return [known[name] for name in only] if only else list(mutants)


def copy_tracked(source: Path, target: Path) -> None:
    """Copy the files that git tracks, as they are in the working tree."""
    listed = subprocess.run(
        ["git", "-C", str(source), "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (source / name).is_file():  # removed ones are still listed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def run_tests(root: Path, tests: Sequence[str]) -> subprocess.CompletedProcess:
    """Run tests in a copy with pytest, up to the first failure, and return the process."""
    wide = {"COLUMNS": "300"}  # or pytest cuts what it says of a failure
    environment = {**os.environ, **wide, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "--durations=0", *tests],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )


def check_copy(root: Path, tests: Sequence[str]) -> None:
    """Raise InputError unless a copy imports its own packages and its tests pass."""
    ours = subprocess.run(
        [
            sys.executable,
            "-c",
            "import cv3jax, data_pipeline as d; print(cv3jax.__file__, d.__file__)",
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    if not all(Path(file).is_relative_to(root) for file in ours):
        raise InputError(f"{', '.join(ours)} are imported, and not the copy in {root}")
    done = run_tests(root, tests)
    if done.returncode:
        raise InputError(
            f"the tests do not pass without a mutant (pytest's exit code {done.returncode}):"
            f" {last_line(done.stdout + done.stderr)}"
        )


def last_line(text: str) -> str:
    """Return the last line that names a failed test, or else the last line."""
    lines = text.strip().splitlines() or ["no output"]
    return next(
        (line for line in reversed(lines) if line.startswith(("FAILED", "ERROR"))), lines[-1]
    )


def verdict(mutant: Mutant, root: Path) -> Verdict:
    """Write a mutant into the copy, run its tests, restore the file, and return the verdict.

    Raises:
        InputError: if the tests did not run, so that nothing is known.
    """
    path, began = root / mutant.file, time.monotonic()
    before, text = path.read_bytes(), mutated(mutant, root)
    try:
        path.write_text(text)
        done = run_tests(root, mutant.tests)
    finally:
        path.write_bytes(before)
    if done.returncode not in (0, FAILED):
        raise InputError(
            f"mutant {mutant.name}: its tests did not run (pytest's exit code {done.returncode}):"
            f" {last_line(done.stdout + done.stderr)}"
        )
    caught = done.returncode == FAILED
    said = last_line(done.stdout) if caught else ""
    return Verdict(mutant, caught, time.monotonic() - began, said)


def report(verdicts: Sequence[Verdict]) -> str:
    """Return a Markdown table with a row for each mutant."""
    rows = [
        (
            one.mutant.of,
            one.mutant.name.replace("_", " "),
            one.mutant.file,
            ", ".join(test.removeprefix("tests/") for test in one.mutant.tests),
            "caught" if one.caught else "SURVIVED",
        )
        for one in verdicts
    ]
    return measure.table(("of", "mutant", "file", "test that fails", ""), rows)


def main(argv: list[str] | None = None) -> None:
    """Run the mutants from the command line and print their table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="this mutant alone; may be given again",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="the verdicts as JSON")
    args = parser.parse_args(argv)
    mutants = chosen(read_table(), args.only)
    for mutant in mutants:
        mutated(mutant, ROOT)
    with tempfile.TemporaryDirectory(prefix="cv3jax_mutants_") as folder:
        root, verdicts, began = Path(folder).resolve(), [], time.monotonic()
        copy_tracked(ROOT, root)
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        say(f"{len(tests)} tests without a mutant")
        check_copy(root, tests)
        say(f"they pass, {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        for number, mutant in enumerate(mutants, 1):
            verdicts.append(verdict(mutant, root))
            each = (time.monotonic() - began) / number
            say(
                f"{number}/{len(mutants)} {'caught' if verdicts[-1].caught else 'SURVIVED'}"
                f" {mutant.name}, {verdicts[-1].seconds:.0f} s;"
                f" {each * (len(mutants) - number):.0f} s left"
            )
    survived = [one.mutant.name for one in verdicts if not one.caught]
    facts = measure.facts()
    print(json.dumps(facts, indent=2))
    print(report(verdicts))
    print(f"\n{len(verdicts) - len(survived)} of {len(verdicts)} mutants are caught")
    results = [one.mutant._asdict() | one._asdict() for one in verdicts]
    for result in results:
        del result["mutant"]
    measure.write_json(args.json, {**facts, "survived": survived, "mutants": results})
    if survived:
        print(f"survived: {', '.join(survived)}", file=sys.stderr)
        raise SystemExit(1)


def say(line: str) -> None:
    """Print a line of progress to stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_command(main)
