"""Many requests to a server whose clients, process and disk fail: each job is drawn exactly once.

    python benchmarks/serve_soak.py --num 10000 --json benchmarks/results/serve_soak.json
    python benchmarks/serve_soak.py --num 400 --checkpoint scenes --json FILE

Without --checkpoint, the engine draws coloured squares in a millisecond a step, so that the server
has most of the work. Clients draw, stream, enlarge, and begin and cancel jobs. Some leave before
their answer, or send what is no request. In the first 30 % of the requests the process is killed
five times (SIGKILL) and started again. Then its disk is full for some seconds: its directory is a
small file system, or its process may write no file, where nothing can be mounted. Near the end it
gets SIGTERM while it is busy, and is started again.

At the end, every job that was accepted has to be drawn exactly once by the journal, its files and
the engine's own notes. The memory of the process that answers the middle of the requests must not
grow after its warm-up, and no answer may have a trace of Python's stack. Exits 1 otherwise.
"""

import argparse
import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import measure
import soak_checks
from soak_requests import Clients

from cv3jax.serving.http.store import JOURNAL
from cv3jax.serving.load.child import Child
from data_pipeline.io.progress import bar, say

HERE = Path(__file__).resolve().parent
ROOM = 512 * 2**20  # bytes of the small file system
KILLS = [0.05 * (i + 1) for i in range(5)]  # at which shares of the requests
FULL, STOP = 0.45, 0.95
WARM = 0.30  # the process that is started after the last kill answers from here to STOP
HELD = 3.0  # seconds for which the disk is full
SAMPLES = 100  # of the memory, in all


@contextlib.contextmanager
def small_disk() -> Iterator[tuple[Path, bool]]:
    """Yield a directory, and whether it is a file system of its own."""
    with tempfile.TemporaryDirectory(prefix="cv3jax_soak_") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", folder]
        done = shutil.which("mount") and subprocess.run(mount, capture_output=True)
        if not done or done.returncode:
            yield Path(folder), False
            return
        try:
            yield Path(folder), True
        finally:
            subprocess.run(["umount", folder], check=True)


class Soak:
    """A run: the server's processes, its clients and its faults."""

    def __init__(self, disk: Path, mounted: bool, args: argparse.Namespace):
        """Prepare what the flags say."""
        self._disk, self._mounted, self._num = disk, mounted, args.num
        self.workdir, self.log = disk / "serve", Path(tempfile.mkstemp(prefix="soak_drawn_")[1])
        self._argv = [
            *(sys.executable, str(HERE / "soak_server.py"), "--port", "0", "--access-log", "none"),
            *("--checkpoint", args.checkpoint or "scenes", "--workdir", str(self.workdir)),
            *("--keep", "1e6", "--drain", "120", "--max-wait", "3600"),
            *([] if args.batch is None else ["--batch", str(args.batch)]),
        ]
        self._environment = {"SOAK_DRAWN": str(self.log)}
        if args.checkpoint is None:
            self._environment["SOAK_PAUSE"] = "0.001"
        self.lives: list[soak_checks.Life] = []
        self.memory: dict[int, list[tuple[int, int]]] = {}
        self._done = self.broken = self._age = 0
        self.faults: list[str] = []
        self._up, self._full = asyncio.Event(), False
        self.child: Child | None = None
        self.clients = Clients("", args.seed)

    async def start(self) -> None:
        """Start the server and let the clients go."""
        self._kept = soak_checks.kept_orders(self.workdir / JOURNAL)
        self.child = await asyncio.to_thread(
            lambda: Child(self._argv, environment=self._environment)
        )
        self.clients.address = self.child.address
        self._age += 1
        self._up.set()

    async def end(self, number: int, what: str) -> None:
        """End the process by a signal, while the clients go on, and note how it ended."""
        self._up.clear()
        child = self.child
        code = await asyncio.to_thread(lambda: child.end(number, 300))
        killed = number == signal.SIGKILL
        self.lives.append(
            soak_checks.Life(child.process.pid, killed, code, self._kept, child.lines)
        )
        self._note(f"{what} at request {self.answered}")

    @property
    def answered(self) -> int:
        """The requests with an answer that is no refusal, however many were sent in vain."""
        return self._done - self._refused()

    def _note(self, line: str) -> None:
        self.faults.append(line)
        say(line)

    async def fill(self, session: httpx.AsyncClient) -> None:
        """Fill the disk until the server says that it cannot write, hold it, and make room."""
        self._full, pid = True, self.child.process.pid
        filler, limit = self._disk / "filler", resource.RLIMIT_FSIZE
        if self._mounted:
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * 4096)
        else:
            before = resource.prlimit(pid, limit, (0, resource.RLIM_INFINITY))
        self._note(f"the disk is full at request {self.answered}")
        began = time.monotonic()
        # a picture cannot be written, or, where none is under way, a new job cannot
        refused = self._refused()
        while self._refused() == refused and await self._ready(session):
            await asyncio.sleep(0.05)
        await asyncio.sleep(HELD)
        if self._mounted:
            filler.unlink()
        else:
            resource.prlimit(pid, limit, before)
        while not await self._ready(session):
            await asyncio.sleep(0.05)
        self._full = False
        self._note(f"the server writes again after {time.monotonic() - began:.1f} s")

    def _refused(self) -> int:
        """Return how many clients were told that the server stops, or cannot write its disk."""
        counts = self.clients.seen.counts
        return sum(n for what, n in counts.items() if what.endswith(("507", "503")))

    async def _ready(self, session: httpx.AsyncClient) -> bool:
        return (await session.get(f"{self.child.address}/readyz")).status_code == 200

    async def work(self, session: httpx.AsyncClient, step: Callable[[int], object]) -> None:
        """Send requests until enough are answered."""
        while self.answered < self._num:
            await self._up.wait()
            age = self._age
            try:
                await self.clients.one(session)
                self._done += 1
                step(self.answered)
            except httpx.HTTPError as e:
                if self._up.is_set() and age == self._age:
                    self.clients.seen.wrong.append(f"a connection broke: {type(e).__name__}: {e}")
                self.broken += 1
            if self._full:
                await asyncio.sleep(0.2)

    async def look(self) -> None:
        """Note the memory of the process now and then."""
        while True:
            before = self.answered
            while self.answered < before + max(self._num // SAMPLES, 1):
                await asyncio.sleep(0.02)
            if self._up.is_set():
                pid = self.child.process.pid
                with contextlib.suppress(OSError):
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                    size = pages * os.sysconf("SC_PAGE_SIZE")
                    self.memory.setdefault(pid, []).append((self.answered, size))

    async def break_things(self, session: httpx.AsyncClient) -> None:
        """Let the faults come at their shares of the requests."""
        for share in KILLS:
            await self._until(share)
            await self.end(signal.SIGKILL, "killed")
            await self.start()
        await self._until(FULL)
        await self.fill(session)
        await self._until(STOP)
        await self.end(signal.SIGTERM, "stopped by SIGTERM while it was busy")
        await self.start()

    async def _until(self, share: float) -> None:
        while self.answered < share * self._num:
            await asyncio.sleep(0.005)

    async def run(self, workers: int) -> None:
        """Send all requests, wait for all jobs, and stop the server."""
        limits = httpx.Limits(max_connections=None)
        try:
            await self.start()
            with bar(self._num, "soak", "request") as shown:
                async with httpx.AsyncClient(
                    timeout=300.0, limits=limits, trust_env=False
                ) as session:
                    looking = asyncio.create_task(self.look())
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self.break_things(session))
                        for _ in range(workers):
                            group.create_task(
                                self.work(session, lambda n: shown.update(n - shown.n))
                            )
                    looking.cancel()
            while left := soak_checks.unfinished(self.workdir / JOURNAL):
                say(f"{left} jobs are still drawn")
                await asyncio.sleep(1.0)
            await self.end(signal.SIGTERM, "stopped by SIGTERM")
        finally:
            self.child.kill()


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Return all figures and what is wrong."""
    began = time.monotonic()
    with small_disk() as (disk, mounted):
        soak = Soak(disk, mounted, args)
        asyncio.run(soak.run(args.workers))
        seconds, seen = time.monotonic() - began, soak.clients.seen
        kept, wrong = soak_checks.jobs(soak.workdir, seen.accepted, seen.cancelled)
        orders = soak_checks.kept_orders(soak.workdir / JOURNAL)
    drawn, again = soak_checks.drawn(soak.log, soak.lives, orders)
    soak.log.unlink()
    # the process that lived longest; the others were killed before they were warm
    longest = max(soak.memory.values(), key=len)
    grown, more = soak_checks.memory([one for one in longest if one[0] >= WARM * args.num])
    return {
        "engine": args.checkpoint or "squares",
        "requests": soak.answered,
        "seed": args.seed,
        "seconds": round(seconds, 1),
        "faults": soak.faults,
        "disk": "a small file system" if mounted else "no file of the process may grow",
        "broken_connections": soak.broken,
        "answers": dict(sorted(seen.counts.items())),
        "accepted_that_clients_know": len(seen.accepted),
        **kept,
        **drawn,
        "memory": grown,
        "wrong": [*seen.wrong, *wrong, *again, *more, *soak_checks.ends(soak.lives)],
    }


def report(found: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    memory = found["memory"]
    rows = [
        ("requests", found["requests"]),
        ("jobs in the journal", ", ".join(f"{n} {what}" for what, n in found["jobs"].items())),
        ("pictures in the journal, each with its file", found["pictures"]),
        ("pictures that engines drew", found["drawn"]),
        (
            "of them drawn again, because a kill came before they were kept",
            found["drawn_again_after_kill"],
        ),
        ("connections that a kill or a stop broke", found["broken_connections"]),
        ("memory after warm-up, MB", f"{memory.get('early_bytes', 0) / 1e6:.1f}"),
        ("memory at the end, MB", f"{memory.get('late_bytes', 0) / 1e6:.1f}"),
        ("seconds", found["seconds"]),
        ("wrong", len(found["wrong"])),
    ]
    return measure.table((f"soak, {found['engine']}", ""), rows)


def main() -> None:
    """Run the soak."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num", type=int, default=10_000, help="requests")
    parser.add_argument("--checkpoint", help="draw with this cascade (default: coloured squares)")
    parser.add_argument("--batch", type=int, help="rows of a batch (default: that of serve)")
    parser.add_argument("--workers", type=int, default=24, help="clients at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.num < 100 or args.workers < 1:
        parser.error("--num must be at least 100 and --workers at least 1")
    before = measure.facts()
    found = {"facts": before, **measured(args)}
    measure.write_json(args.json, found)
    print(report(found) + "\n\n" + ", ".join(f"{key} {value}" for key, value in before.items()))
    for line in found["wrong"][:20]:
        print(f"wrong: {line}", file=sys.stderr)
    sys.exit(bool(found["wrong"]))


if __name__ == "__main__":
    main()
