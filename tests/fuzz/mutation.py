"""Try a reader on valid files with seeded damage; count what it must never do.

Each try runs in a child process of bounded memory and time, so that a crash of the interpreter, a
loop and a flood of memory are seen as well as an exception. A crash is printed with its seed, which
makes the same file again.
"""

import argparse
import collections
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import outcomes

GIB = 2**30
MEMORY, SECONDS = 3 * GIB, 20  # of one batch of tries
Make, Read = Callable[[random.Random], bytes], Callable[[bytes], str]
# how a try may end: the file's first check fails, it is read with something missing, it is read
ENDS = UNOPENED, DAMAGED, ACCEPTED = "unopened", "damaged", "accepted"
_BATCH = 50  # tries of a child process
_NUMBERS = (0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63)


def mutated(seeds: list[bytes], rng: random.Random) -> bytes:
    """Return one of the files with one to eight changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 8)):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8, 64, 512))
        change = rng.randrange(8)
        if change == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at : at + size] = rng.randbytes(size)
        elif change == 2:
            del data[at : at + size]
        elif change == 3:
            start = rng.randrange(len(data) + 1)
            data[at:at] = data[start : start + size]
        elif change == 4:
            number = rng.choice(_NUMBERS) + rng.randint(-1, 1)
            width = rng.choice((1, 2, 4, 8))
            number = (number % 2 ** (8 * width)).to_bytes(width, rng.choice(("big", "little")))
            data[at : at + width] = number
        elif change == 5:
            data[at : at + size] = bytes([rng.choice((0, 255))]) * size
        elif change == 6:
            other = rng.choice(seeds)
            start = rng.randrange(len(other))
            data[at : at + size] = other[start : start + size]
        else:
            del data[at:]
        if not data:
            data = bytearray(rng.choice(seeds))
    return bytes(data)


def run(doc: str, make: Make, read: Read) -> int:
    """Try `read` on files of `make` for some seconds; print the counts, return the exit code."""
    made = argparse.ArgumentParser(description=doc)
    made.add_argument("--seconds", type=float, default=60)
    made.add_argument("--first", type=int, default=0, help="seed of the first file")
    made.add_argument("--write", type=Path, help="write the file of the seed --first, and end")
    outcomes.add_flag(made)
    args = made.parse_args()
    if args.write:
        args.write.write_bytes(make(random.Random(args.first)))
        return 0
    os.nice(10)
    began, number, failures, ends = time.monotonic(), args.first, 0, collections.Counter()
    while time.monotonic() < began + args.seconds:
        for seed, told in _batch(range(number, number + _BATCH), make, read):
            ends[told] += 1
            if told not in ENDS:
                failures += 1
                print(f"seed {seed}: {told}", flush=True)
        number += _BATCH
    return outcomes.told(
        args.json,
        outcomes.Outcome(
            seed=args.first,
            seconds=time.monotonic() - began,
            tries=number - args.first,
            past_first_check=number - args.first - ends[UNOPENED],
            accepted=ends[ACCEPTED],
            failures=failures,
        ),
    )


def _batch(seeds: range, make: Make, read: Read) -> list[tuple[int, str]]:
    """Return [(seed, one of ENDS or what went wrong)] of the seeds' files."""
    wrong: list[tuple[int, str]] = []
    while seeds:
        end, start = os.pipe()
        if not (child := os.fork()):
            os.close(end)
            _child(seeds, make, read, start)
        os.close(start)
        with open(end, errors="replace") as pipe:
            lines = pipe.read().splitlines()
        _, status, used = os.wait4(child, 0)
        at = int(lines[-1].partition(" ")[0]) if lines else seeds[0]
        wrong += [(int(s), told) for s, _, told in (line.partition(" ") for line in lines) if told]
        if status:
            signals = {signal.SIGALRM: f"more than {SECONDS} s"}
            told = signals.get(os.WTERMSIG(status), f"ended with status {status}")
            wrong.append((at, told))
        elif used.ru_maxrss * 1024 > MEMORY:
            wrong.append((at, f"{used.ru_maxrss / 2**20:.1f} GiB in the tries before"))
        seeds = range(at + 1, seeds.stop) if status else range(0)
    return wrong


def _child(seeds: range, make: Make, read: Read, pipe: int) -> None:
    """Try the seeds and write a line of each; end the process."""
    resource.setrlimit(resource.RLIMIT_AS, (4 * MEMORY, 4 * MEMORY))
    for seed in seeds:
        signal.alarm(SECONDS)
        os.write(pipe, f"{seed}\n".encode())
        try:
            ended = read(make(random.Random(seed)))
            os.write(pipe, f"{seed} {ended}\n".encode())
        except BaseException as e:
            where = traceback.extract_tb(e.__traceback__)[-1]
            told = f"{type(e).__name__} {str(e)[:200]} ({where.filename}:{where.lineno})"
            os.write(pipe, f"{seed} {' '.join(told.split())}\n".encode(errors="replace"))
    sys.stdout.flush()
    os._exit(0)
