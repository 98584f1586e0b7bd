"""A lease on an address: one run at a time writes there, although a bucket has no locks.

`lease.json` says who holds it, and its holder writes it anew every third of `seconds`. Another run
watches it by its own clock: if it stands still for `seconds`, its holder is dead, and the lease is
taken over. So clocks need not agree. A holder that is dead on the same machine is known at once.
"""

import json
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from data_pipeline.io.bounded_json import ParseError, parse_json
from data_pipeline.io.errors import InputError, first_line
from data_pipeline.io.objects.store import Found, LostError, Store
from data_pipeline.io.progress import say

NAME = "lease.json"
SECONDS = 60.0  # a killed run's lease ends after so many seconds


class Lease:
    """The lease that this process holds. `lost` says who took it, or is None."""

    def __init__(self, store: Store, flag: str, seconds: float = SECONDS):
        """Take the lease, and keep it by a thread until `release`.

        Raises:
            InputError: another run holds it; the message says who, where and since when.
            OSError: the store fails.
        """
        self._store, self._seconds, self._flag = store, seconds, flag
        self.lost: str | None = None
        self._beats, self._end = 0, threading.Event()
        self._about = {
            "id": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "boot": _boot(),
            "space": _space(),
            "process": os.getpid(),
            "began": _began(os.getpid()),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._stamp = self._take()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise InputError where another run has taken the lease."""
        if self.lost:
            raise InputError(
                f"{self._flag} {self._store.address}: the lease was taken over by {self.lost};"
                " this run writes nothing more there"
            )

    def release(self) -> None:
        """Give the lease back, so that the next run need not wait."""
        self._end.set()
        self._thread.join()
        if not self.lost:
            try:
                self._store.replace(NAME, json.dumps({"free": True}).encode(), self._stamp)
            except (OSError, InputError, LostError) as e:
                say(
                    f"cv3jax: the lease of {self._store.address} was not given back"
                    f" ({first_line(e)})"
                )

    def _take(self) -> str:
        found = self._store.read(NAME)
        while True:
            if found is not None and (holder := _holder(found)):
                self._watch(found, holder)
            try:
                return self._store.replace(NAME, self._text(), found.stamp if found else None)
            except LostError:
                found = self._store.read(NAME)

    def _watch(self, found: Found, holder: dict) -> None:
        """Return once the holder is known to be dead. Raises InputError where it lives."""
        here = all(holder.get(name) == self._about[name] for name in ("host", "boot", "space"))
        if here and _began(holder.get("process")) != holder.get("began"):
            return
        until = time.monotonic() + self._seconds
        while not here and time.monotonic() < until:
            time.sleep(min(1.0, self._seconds / 10))
            now = self._store.read(NAME)
            if now is None or not _holder(now):
                return
            if now.stamp != found.stamp:
                break
        else:
            if not here:
                return
        raise InputError(
            f"{self._flag} {self._store.address} is in use by {_named(holder)}; wait for it, stop"
            " it, or give another address"
        )

    def _keep(self) -> None:
        while not self._end.wait(self._seconds / 3):
            self._beats += 1
            try:
                self._stamp = self._store.replace(NAME, self._text(), self._stamp)
            except LostError:
                found = self._store.read(NAME)
                self.lost = _named(_holder(found) or {}) if found else "another process"
                return
            except (OSError, InputError) as e:
                say(f"cv3jax: the lease of {self._store.address} was not kept ({first_line(e)})")

    def _text(self) -> bytes:
        return json.dumps({**self._about, "beats": self._beats, "beat": time.time()}).encode()


def held(store: Store) -> bool:
    """Return whether somebody has, or has not given back, the lease of an address.

    Raises OSError.
    """
    found = store.read(NAME)
    return found is not None and _holder(found) is not None


def _holder(found: Found) -> dict | None:
    """Return what a lease says of its holder, or None where nobody holds it."""
    try:
        value = parse_json(found.data)
    except (ParseError, ValueError):
        return {}
    return None if isinstance(value, dict) and value.get("free") else dict(value)


def _named(holder: dict) -> str:
    if "process" not in holder:
        return "another process"
    return f"process {holder['process']} on {holder.get('host')} since {holder.get('since')}"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _space() -> str:
    """Return which processes the numbers of processes are of: each container has its own."""
    return os.readlink("/proc/self/ns/pid")


def _began(process: object) -> str | None:
    """Return when a process of this machine began, or None where it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
