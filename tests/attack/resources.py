"""Start every long command with too little of one thing, and see that nothing is lost.

    python tests/attack/resources.py [--tries 2] [--seed 0] [--only "full disk" train ...]

Under a limit (limits.py) a command goes through with the result of an undisturbed run, or ends in
one line with exit code 1 or 2; the same command without the limit then has that result. It prints a
table, and exits with 1 where a try failed. Without root, the limits that are mounted are left out,
which is said.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import shared
import subprocesses
from limited_commands import Command, commands, variables
from limits import LIMITS, Place, Size
from rows import Row, table

NAME = "limits"
LONG = 300.0  # seconds after which a command hangs
QUICK = ("train", "data build", "data recaption")  # are tried `tries` times under each limit
# takes minutes to its end: only that it is refused is looked at
REFUSED = {"quickstart": ("read-only disk", "4,000-character path")}
UP = re.compile(r"ready at http")


def started(command: Command, place: Place, out: Path) -> tuple[int | None, str]:
    """Return (exit code, stderr) of a command that writes `out`; None where it hangs."""
    words = [*place.before, *subprocesses.command("cv3jax", *command.argv(out))]
    environment = subprocesses.environment(**variables(), **place.environment)
    with tempfile.TemporaryFile() as file:
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=file)

        def said() -> str:
            return os.pread(file.fileno(), 2**20, 0).decode(errors="replace")

        end, asked = time.monotonic() + LONG, False
        while process.poll() is None and time.monotonic() < end:
            if command.serves and not asked and UP.search(said()):
                process.send_signal(signal.SIGTERM)
                asked = True
            time.sleep(0.05)
        if (code := process.poll()) is None:
            process.kill()
            process.wait()
        return code, said()


def one_line(said: str) -> bool:
    """Return whether stderr ends in a line of ours, and all other lines are of progress."""
    lines = [line for line in said.replace("\r", "\n").split("\n") if line.strip()]
    foreign = subprocesses.foreign(said)
    return bool(lines) and lines[-1].startswith("cv3jax: ") and not foreign


def attempt(command: Command, place: Place, right: str, *, whole: bool) -> tuple[bool, str]:
    """Return (whether the command held under the limit, what happened).

    right: the hash of an undisturbed run. whole: whether it is run again without the limit.
    """
    code, said = started(command, place, place.out)
    last = (said.strip().splitlines() or [""])[-1][-300:]
    what = f"{place.said}: exit code {code}, {last}"
    if code == 0:
        same = command.made(place.out) == right
        return same, what if same else f"{what}; another result"
    if code not in (1, 2) or not one_line(said):
        return False, f"{what}; stderr: {said.strip()[-1500:]!r}"
    if not whole:
        return True, what
    place.lift()
    again = place.again or place.out
    code, said = started(command, Place(again, ""), again)
    if code != 0:
        return False, f"{what}; then exit code {code}: {said.strip()[-400:]!r}"
    same = command.made(again) == right
    return same, what if same else f"{what}; then another result"


def undisturbed(command: Command) -> tuple[str, Size]:
    """Return (the hash of what a command makes, how large that is)."""
    with tempfile.TemporaryDirectory(prefix="cv3jax-limits-") as name:
        out = Path(name) / "out"
        code, said = started(command, Place(out, ""), out)
        if code != 0:
            raise SystemExit(f"a command without a limit ended with {code}: {said[-1000:]}")
        files = [path for path in out.rglob("*") if not path.is_symlink()]
        total = sum(path.stat().st_size for path in files if path.is_file())
        return command.made(out), Size(total, len(files))


def planned(only: Sequence[str], tries: int) -> list[tuple[str, str, int]]:
    """Return (limit, command, number of the try) of everything that is tried."""
    cases = []
    for limit in LIMITS:
        for name in commands():
            limits, chosen = set(only) & set(LIMITS), set(only) & set(commands())
            wanted = (not limits or limit in limits) and (not chosen or name in chosen)
            wanted = wanted and limit in REFUSED.get(name, (limit,))
            count = tries if name in QUICK or limit == "address space" else 1
            cases += [(limit, name, i) for i in range(count) if wanted]
    return cases


def run(
    seed: int = 0,
    only: Sequence[str] = (),
    tries: int = 2,
    told: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Try the commands under the limits, two at a time; return a row for each limit.

    only: names of limits and of commands (default: all). tries: of each quick command, and of each
    command under the limit of the address space; others are tried once. told: is given a line for
    each try.
    """
    cases, known, rows = planned(only, tries), commands(), []
    root = os.geteuid() == 0
    names = sorted({name for _, name, _ in cases})
    ended_well = [name for name in names if name not in REFUSED]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda name: undisturbed(known[name]), ended_well)
        whole = dict(zip(ended_well, made, strict=True))
    told(f"{len(whole)} commands without a limit have ended")
    began, done = time.monotonic(), 0

    def tried(case: tuple[str, str, int]) -> tuple[bool, str]:
        nonlocal done
        limit, name, number = case
        rng = random.Random(f"{seed}/{limit}/{name}/{number}")
        right, size = whole.get(name, ("", Size(0, 0)))
        folder = Path(tempfile.mkdtemp(prefix="cv3jax-limits-"))
        try:
            with LIMITS[limit][0](folder, rng, size) as place:
                held, what = attempt(known[name], place, right, whole=name in whole)
        finally:
            subprocess.run(["rm", "-rf", str(folder)], check=False)  # of paths of any length
        done += 1
        left = (time.monotonic() - began) / done * (len(cases) - done)
        verdict = "held" if held else "FAILED"
        told(f"{done}/{len(cases)}, {left:.0f} s left: {verdict}: {name}, {what}")
        return held, f"{name}: {what}"

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        able = [case for case in cases if root or not LIMITS[case[0]][1]]
        ended = dict(zip(able, pool.map(tried, able), strict=True))
    for limit, (_, needs_root) in LIMITS.items():
        found = [ended[case] for case in able if case[0] == limit]
        notes = "; ".join(what for held, what in found if not held)
        if needs_root and not root and any(case[0] == limit for case in cases):
            notes = "left out: needs root, to mount a file system"
        if found or notes:
            held = sum(held for held, _ in found)
            rows.append(Row(NAME, limit, len(found), held, len(found) - held, notes))
    return rows


def main(argv: list[str] | None = None) -> int:
    """Run the campaign, and print its table. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=(), help="names of limits and of commands")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.only if name not in {**LIMITS, **commands()}]:
        parser.error(f"--only {unknown[0]!r}: give some of {', '.join({**LIMITS, **commands()})}")
    rows = run(
        args.seed, args.only, args.tries, lambda line: print(line, file=sys.stderr, flush=True)
    )
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows]))
    return int(any(row.failed for row in rows))


def as_tests() -> int:
    """Run `main` with the devices and the shared directory that the tests have."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    given = os.environ.get(shared.VARIABLE)
    importlib.import_module("conftest")
    try:
        return main()
    finally:
        if not given:
            shutil.rmtree(os.environ[shared.VARIABLE], ignore_errors=True)


if __name__ == "__main__":
    sys.exit(as_tests())
