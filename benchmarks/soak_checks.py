"""What has to be true after serve_soak.py, whatever happened to the server meanwhile."""

import contextlib
import json
import sqlite3
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from cv3jax.serving.http.journal import Journal
from cv3jax.serving.http.store import JOURNAL

GROWTH = 0.05  # of the memory after warm-up


class Life(NamedTuple):
    """A process of the server: how it ended, and the orders in the journal when it began."""

    pid: int
    killed: bool
    code: int
    kept: frozenset[str]
    said: list[str]  # the end of its stderr


def _opened(journal: Path) -> contextlib.closing[sqlite3.Connection]:
    """Return the journal, to be read and then closed."""
    return contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True))


def kept_orders(journal: Path) -> frozenset[str]:
    """Return the orders whose pictures are in the journal."""
    if not journal.exists():
        return frozenset()
    with _opened(journal) as db:
        found = db.execute("select job, number from pictures").fetchall()
    return frozenset(f"{job}.{number}" for job, number in found)


def unfinished(journal: Path) -> int:
    """Return how many accepted jobs are not over."""
    with _opened(journal) as db:
        return db.execute("select count(*) from jobs where state = 'accepted'").fetchone()[0]


def jobs(workdir: Path, accepted: set[str], cancelled: set[str]) -> tuple[dict, list[str]]:
    """Return the counts of the journal and its files, and what is wrong with them."""
    with _opened(workdir / JOURNAL) as db:
        rows = db.execute("select id, state, plan, message from jobs").fetchall()
        pictures = db.execute("select job, number, file, size from pictures").fetchall()
    wrong = [
        f"{job} was accepted and is not in the journal" for job in accepted - {r[0] for r in rows}
    ]
    numbers: dict[str, list[int]] = {}
    for job, number, _, _ in pictures:
        numbers.setdefault(job, []).append(number)
    for job, state, plan, message in rows:
        if state == "done":
            if sorted(numbers.get(job, [])) != list(range(json.loads(plan)["n"])):
                wrong.append(f"{job} is done with pictures {numbers.get(job)}")
        elif state != "cancelled" or job not in cancelled:
            wrong.append(f"{job} is {state}: {message}")
    names = Counter(file for _, _, file, _ in pictures)
    wrong += [f"{name} is the file of {n} pictures" for name, n in names.items() if n > 1]
    there = {path.name: path for path in (workdir / "pictures").iterdir()}
    with contextlib.closing(Journal(workdir / JOURNAL)) as kept:
        known = kept.known()[1]
    wrong += [f"a file of no picture: {name}" for name in there.keys() - known]
    wrong += [f"a picture given: {path.name}" for path in (workdir / "given").iterdir()]
    for _, _, file, size in pictures:
        path = there.get(file)
        if path is None or path.stat().st_size != size:
            wrong.append(f"{file} is missing, or has another size than the journal says")
            continue
        with Image.open(path) as image:
            image.load()
    states = Counter(state for _, state, _, _ in rows)
    if states["done"] < len(rows) / 2 or not rows:
        wrong.append(f"only {states['done']} of {len(rows)} jobs were drawn to their end")
    return {"jobs": dict(states), "pictures": len(pictures), "files": len(there)}, wrong


def drawn(log: Path, lives: Sequence[Life], kept: frozenset[str]) -> tuple[dict, list[str]]:
    """Return the counts of what engines drew, and what is wrong with it.

    An order is drawn again only if the process that drew it was killed before its picture was in
    the journal.
    """
    by = {life.pid: life for life in lives}
    lines = [tuple(line.split()) for line in log.read_text().splitlines()]
    wrong = [
        f"process {pid} drew {order} {n} times"
        for (pid, order), n in Counter(lines).items()
        if n > 1
    ]
    processes: dict[str, list[int]] = {}
    for pid, order in lines:
        processes.setdefault(order, []).append(int(pid))
    for order, pids in processes.items():
        for pid in pids[1:]:
            if order in by[pid].kept:
                wrong.append(f"{order} was in the journal and was drawn again")
        if not all(by[pid].killed for pid in pids[:-1]):
            wrong.append(f"{order} was drawn again after a process that was not killed")
    wrong += [f"{order} is in the journal and was not drawn" for order in kept - processes.keys()]
    again = sum(len(pids) - 1 for pids in processes.values())
    return {"drawn": len(lines), "orders": len(processes), "drawn_again_after_kill": again}, wrong


def memory(samples: Sequence[tuple[int, int]]) -> tuple[dict[str, Any], list[str]]:
    """Return how a process's memory grew, and whether that is too much.

    samples: (requests, bytes) of one process. Its first quarter is the warm-up. The medians of the
    second and the last quarter are compared.
    """
    if len(samples) < 8:
        return {"samples": [list(one) for one in samples]}, ["too few samples of memory"]
    quarter = len(samples) // 4
    early = statistics.median(size for _, size in samples[quarter : 2 * quarter])
    late = statistics.median(size for _, size in samples[-quarter:])
    after = samples[quarter:]
    slope = statistics.linear_regression(*zip(*after, strict=True)).slope
    found = {
        "samples": [list(one) for one in samples],
        "early_bytes": early,
        "late_bytes": late,
        "growth": late / early - 1,
        "bytes_per_request": slope,
    }
    wrong = []
    if late > (1 + GROWTH) * early:
        wrong.append(f"memory grew from {early / 1e6:.1f} MB to {late / 1e6:.1f} MB")
    return found, wrong


def ends(lives: Sequence[Life]) -> list[str]:
    """Return what is wrong with how processes ended, and with what they said."""
    wrong = [
        f"a process that was asked to stop exited with {life.code}"
        for life in lives
        if not life.killed and life.code
    ]
    return wrong + [
        f"a process said {line!r}" for life in lives for line in life.said if "Traceback" in line
    ]
