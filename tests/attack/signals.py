"""Disturb every long command by signals at random moments, and see that the result is the same.

    python tests/attack/signals.py [--seed 0] [--only train "data build" ...] [--tries N]
        [--json FILE]

Each command runs once undisturbed. Then it is killed, stopped or asked to end at random moments,
its start included, and given again until it is done. How it ended is judged by exit code and
output, and what it made is compared bit for bit. Two processes of one run are also given other
commands, other data, and a taken port (pairs.py). Prints a table of tries, held and failed, and
exits with 1 where one failed. --tries gives the number for each command.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import pairs
import shared
from endings import DISTURBANCES, Process, judge, last, wait_for
from heeded import heed_in_children
from long_commands import Long, long_commands
from rows import Row, table

NAME = "signals"
TRIES = {
    "train": 18,
    "distill": 12,
    "data build": 18,
    "data encode": 12,
    "data recaption": 18,
    "sample by two": 12,
    "convert": 12,
    "quickstart": 5,
}
AT_ONCE = 3  # chains that run at once
Outcome = tuple[str, str]  # (disturbance, what is wrong or "")


class Ended(NamedTuple):
    """What is wrong with how a disturbed command ended, or ""; was it hit; is it to resume."""

    wrong: str
    hit: bool
    resumes: bool


class Command:
    """A long command, what it leaves undisturbed, and how long that takes."""

    def __init__(self, name: str, long: Long, folder: Path):
        """Run it once undisturbed. Raises RuntimeError where that fails."""
        self.name, self.long, self.folder = name, long, folder
        self._count, self._lock = 0, threading.Lock()
        place = self.place()
        if long.first:
            self.whole(place)
            shutil.rmtree(place)
            place = self.place()
        self.seconds = max(seconds for *_, seconds in self.whole(place))
        if not long.first:  # about half was compilation
            self.seconds /= 2
        self.right = long.result(place)
        shutil.rmtree(place)

    def place(self) -> Path:
        """Make a new folder."""
        with self._lock:
            self._count += 1
            place = self.folder / f"{self.name.replace(' ', '_')}_{self._count}"
        place.mkdir(parents=True)
        return place

    def start(self, place: Path) -> list[Process]:
        """Start its processes; they answer signals."""
        log, environment = place / "log", self.long.environment
        began = [
            Process(argv, log.with_suffix(f".{i}"), environment)
            for i, argv in enumerate(self.long.argv(place))
        ]
        for process in began:
            process.answering()
        return began

    def whole(self, place: Path) -> list[tuple[int, str, float]]:
        """Run it to its end. Raises RuntimeError unless that succeeds."""
        ended = [process.end() for process in self.start(place)]
        for code, said, _ in ended:
            if code or "Traceback" in said:
                raise RuntimeError(f"given again it ended with exit code {code}: {last(said)}")
        return ended

    def disturbed(self, place: Path, name: str, rng: random.Random) -> Ended:
        """Start it and disturb one of its processes."""
        began = self.start(place)
        chosen = rng.randrange(len(began))
        # one of three moments is in the start
        at = rng.uniform(0, 1.5 if rng.random() < 1 / 3 else self.seconds)
        time.sleep(at)
        hit = began[chosen].send(DISTURBANCES[name][0])
        sent, wrong, codes = time.monotonic(), "", []
        for number in DISTURBANCES[name][1:]:
            time.sleep(rng.uniform(0, 1.0))
            began[chosen].send(number)
        wait_for(began)
        for i, process in enumerate(began):
            code, said, _ = process.end()
            codes.append(code)
            if i == chosen and hit:
                seconds = (process.over_at or time.monotonic()) - sent
                wrong = wrong or judge(name, code, said, seconds, saves=self.long.saves)
            elif code:
                wrong = wrong or f"not disturbed, it ended with exit code {code}: {last(said)}"
        resumes = any(codes) or (self.long.saves and name == "SIGTERM")
        return Ended(f"{name} at {at:.2f} s: {wrong}" if wrong else "", hit, resumes)

    def chain(self, names: list[str], rng: random.Random) -> list[Outcome]:
        """Disturb a run by each of `names`, let it end, and compare what it made.

        Where it was over before all of them, another run takes the rest.
        """
        place, outcomes, since = self.place(), [], 0
        for i, name in enumerate(names):
            ended = self.disturbed(place, name, rng)
            while not ended.hit:  # it was over before the signal, which is no try
                shutil.rmtree(place)
                place = self.place()
                since, ended = i, self.disturbed(place, name, rng)
            outcomes.append((name, ended.wrong))
            if ended.resumes and i + 1 < len(names):
                continue
            if wrong := self.compare(place, resumes=ended.resumes):
                said = f"{' and '.join(names[since : i + 1])}: {wrong}"
                outcomes[since:] = [(one, was or said) for one, was in outcomes[since:]]
            shutil.rmtree(place)
            place, since = self.place(), i + 1
        return outcomes

    def compare(self, place: Path, *, resumes: bool) -> str:
        """Run the command to its end where it resumes. Returns what is wrong with what it made."""
        try:
            if resumes:
                self.whole(place)
            found = self.long.result(place)
        except Exception as e:  # whatever is wrong with what is left
            return f"{type(e).__name__}: {e}"
        differ = [key for key in self.right | found if self.right.get(key) != found.get(key)]
        return f"not identical: {', '.join(differ[:3])}" if differ else ""


def disturb(command: Command, tries: int, seed: int) -> list[Row]:
    """Return the rows of a command, one for each disturbance."""
    rng = random.Random(f"{seed} {command.name}")
    names = list(itertools.islice(itertools.cycle(DISTURBANCES), tries))
    rng.shuffle(names)
    size = command.long.chain
    chains = [names[i : i + size] for i in range(0, tries, size)]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        ended = pool.map(command.chain, chains, [random.Random(rng.random()) for _ in chains])
        outcomes = [outcome for each in ended for outcome in each]
    rows = []
    for name in dict.fromkeys(names):
        said = [wrong for disturbance, wrong in outcomes if disturbance == name]
        bad = [wrong for wrong in said if wrong]
        what, held = f"{command.name}: {name}", len(said) - len(bad)
        rows.append(Row(NAME, what, len(said), held, len(bad), "; ".join(bad)))
    return rows


def run(seed: int = 0, only: list[str] | None = None, tries: int | None = None) -> list[Row]:
    """Return the rows of all commands, or of those named in `only`, and of the pairs.

    tries: for each command, in place of TRIES.
    """
    return list(attacks(seed, only, tries))


def attacks(seed: int, only: list[str] | None, tries: int | None) -> Iterator[Row]:
    """Yield the rows as they come."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cv3jax-signals-")))
        for name, make in long_commands(folder / "inputs", stack):
            if only and name not in only:
                continue
            (folder / "inputs").mkdir(exist_ok=True)
            began = time.monotonic()
            command = Command(name, make(), folder)
            ready = time.monotonic() - began
            yield from disturb(command, tries or TRIES[name], seed)
            took = time.monotonic() - began
            print(f"{name}: {ready:.0f} s to prepare, {took:.0f} s in all", file=sys.stderr)
        if not only or "pairs" in only:
            yield from pairs.run(folder, seed)


def main(argv: list[str] | None = None) -> int:
    """Run the campaign, and print its table. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", metavar="NAME", help=f"{', '.join(TRIES)}, pairs")
    parser.add_argument("--tries", type=int, help="for each command")
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args(argv)
    heed_in_children()
    rows = []
    for row in attacks(args.seed, args.only, args.tries):
        rows.append(row)
        if args.json:  # what there is, should the campaign itself be ended
            stored = [dataclasses.asdict(one) for one in rows]
            args.json.write_text(json.dumps(stored, indent=1) + "\n")
    print(table(rows))
    return any(row.failed for row in rows)


def as_tests() -> int:
    """Run `main` with the devices and the shared directory that the tests have."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    importlib.import_module("conftest")
    with tempfile.TemporaryDirectory(prefix="cv3jax-signals-") as name:
        os.environ[shared.VARIABLE] = name
        return main()


if __name__ == "__main__":
    sys.exit(as_tests())
