"""Two processes of one training: one stands still, dies, comes late or is given something else."""

import random
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import encode_runs
import many_runs
from endings import Process, last
from long_commands import run as result
from long_commands import training
from rows import Row

PATIENCE = 10.0
TWO = ("mesh.data=2", "mesh.fsdp=1", "batch.per_device=4")
Ended = tuple[int, str, float]


class Pair:
    """Two processes of one run; `more` has what each is given besides."""

    def __init__(self, place: Path, port: int, more: dict[int, list[str]] | None = None):
        self.place, self.port, self.more = place, port, more or {}
        self.processes: dict[int, Process] = {}

    def start(self, index: int) -> Process:
        """Start one of them."""
        argv = [*training(self.place / "w", *TWO), "--num-processes=2", f"--process-id={index}"]
        argv += [f"--coordinator=127.0.0.1:{self.port}", f"--patience={PATIENCE}"]
        log = self.place / f"log.{index}"
        process = Process([*argv, *self.more.get(index, [])], log, {"NPROC": "64"})
        self.processes[index] = process
        process.answering()
        return process

    def both(self) -> "Pair":
        """Start both."""
        for index in range(2):
            self.start(index)
        return self

    def end(self) -> list[Ended]:
        """Return how each ended."""
        return [self.processes[index].end() for index in range(2)]

    def training(self) -> bool:
        """Wait until the first step is written down. Returns False where the run is over."""
        metrics = self.place / "w" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            if any(p.process.poll() is not None for p in self.processes.values()):
                return False
            time.sleep(0.01)
        return True


def wanted(ended: list[Ended], codes: tuple[int, int], words: str = "") -> str:
    """Return what is wrong with the exit codes and the words of two processes, or ""."""
    for index, (code, said, _) in enumerate(ended):
        if "Traceback" in said:
            return f"process {index}: traceback, {last(said)}"
        if code != codes[index]:
            return f"process {index}: exit code {code}, not {codes[index]}: {last(said)}"
        if code not in (0, -9) and not last(said).startswith("cv3jax: "):
            return f"process {index}: its last line is {last(said)}"
    if words and words not in "".join(said for _, said, _ in ended):
        return f"nothing said {words!r}: {last(ended[0][1])}"
    return ""


def still(pair: Pair, rng: random.Random) -> str:
    """Stop one of them for some seconds, which is less than the patience."""
    from signal import SIGCONT, SIGSTOP

    one = pair.both().processes[rng.randrange(2)]
    time.sleep(rng.uniform(0, 10))
    one.send(SIGSTOP)
    time.sleep(3)
    one.send(SIGCONT)
    return wanted(pair.end(), (0, 0))


def killed(index: int) -> Callable[[Pair, random.Random], str]:
    """Return what kills one of them while they train."""

    def kill(pair: Pair, rng: random.Random) -> str:
        if not pair.both().training():
            return "it was over before the signal"
        pair.processes[index].send(9)
        codes = (-9, 1) if index == 0 else (1, -9)
        return wanted(pair.end(), codes, f"process {index} of 2 (pid")

    return kill


def asked(number: int, code: int) -> Callable[[Pair, random.Random], str]:
    """Return what asks one of them to end while they train; both end alike."""

    def ask(pair: Pair, rng: random.Random) -> str:
        if not pair.both().training():
            return "it was over before the signal"
        pair.processes[rng.randrange(2)].send(number)
        return wanted(pair.end(), (code, code), "stopped after step")

    return ask


def taken(pair: Pair, rng: random.Random) -> str:
    """Let another program have the coordinator's port."""
    with socket.create_server(("127.0.0.1", pair.port)):
        first = pair.start(0)
        code, said, _ = first.end()
        second = pair.start(1)
        time.sleep(1)
        second.send(15)
        return wanted([(code, said, 0.0), second.end()], (1, 143), "cannot listen at")


def late(pair: Pair, rng: random.Random) -> str:
    """Start the second one some seconds after the first, or the first after the second."""
    order = [0, 1] if rng.random() < 0.5 else [1, 0]
    pair.start(order[0])
    time.sleep(6)
    pair.start(order[1])
    return wanted(pair.end(), (0, 0))


def other(pair: Pair, rng: random.Random, words: str) -> str:
    """See that both end with exit code 2 and that nothing is trained."""
    wrong = wanted(pair.both().end(), (2, 2), words)
    trained = (pair.place / "w" / "checkpoints").exists()
    return wrong or ("something was trained" if trained else "")


def cases() -> Iterator[tuple[str, dict[int, list[str]], Callable[[Pair, random.Random], str]]]:
    """Yield (what, what a process is given besides, the attack) of each case."""
    for _ in range(2):
        yield "SIGSTOP, SIGCONT of one", {}, still
    for index, name in ((1, "kill -9 of the second"), (0, "kill -9 of the coordinator")):
        yield name, {}, killed(index)
    yield "SIGTERM to one", {}, asked(15, 0)
    yield "SIGINT to one", {}, asked(2, 130)
    yield "SIGHUP to one", {}, asked(1, 129)
    yield "port taken", {}, taken
    yield "late starter", {}, late
    rate = {1: ["--config.optim.lr=0.5"]}
    yield (
        "another recipe in one",
        rate,
        lambda pair, rng: other(pair, rng, "config.optim.lr is 0.5, not"),
    )
    data = {1: [f"--config.data.path={encode_runs.data()}"]}
    yield (
        "other data in one",
        data,
        lambda pair, rng: other(pair, rng, "the content of config.data.path is another one"),
    )


def run(folder: Path, seed: int) -> list[Row]:
    """Return a row for each case: what they end with, and what they make when given again."""
    rng, rows = random.Random(f"{seed} pairs"), {}
    right = folder / "pair"
    right.mkdir()
    wanted(Pair(right, many_runs.free_port()).both().end(), (0, 0))
    expected = result(right / "w")
    for number, (what, more, attack) in enumerate(cases()):
        print(f"two processes of train: {what}", file=sys.stderr, flush=True)
        place = folder / f"pair_{number}"
        place.mkdir()
        wrong = attack(Pair(place, many_runs.free_port(), more), rng)
        if not wrong:
            wrong = wanted(Pair(place, many_runs.free_port()).both().end(), (0, 0))
        if not wrong:
            found = result(place / "w")
            differ = [key for key in expected | found if expected.get(key) != found.get(key)]
            wrong = f"not identical: {', '.join(differ[:3])}" if differ else ""
        row = rows.setdefault(what, [0, []])
        row[0] += 1
        row[1] += [wrong] if wrong else []
        shutil.rmtree(place)
    return [
        Row("signals", f"two processes of train: {what}", n, n - len(bad), len(bad), "; ".join(bad))
        for what, (n, bad) in rows.items()
    ]
