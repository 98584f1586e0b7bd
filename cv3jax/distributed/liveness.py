"""Liveness of the processes of one run: who has died, and after which step all of them stop.

Each process has a thread that writes a heartbeat to the key-value store of `jax.distributed`, which
process 0 serves, and reads notices from it. Process 0 checks the heartbeats. A device that waits
for a dead process would wait for ever. So what ends a process here is not an exception in its main
thread but its exit.
"""

import ctypes
import json
import os
import signal
import socket
import threading
import time
from typing import Any

from data_pipeline.io.bounded_json import OWN, parse_json

NOTICES, BEATS, POSITIONS, NAMES = (
    f"cv3jax/{name}/" for name in ("notice", "beat", "position", "name")
)
FOREVER = 10**9  # milliseconds; the thread ends the process where waiting has become futile
GONE = (
    "UNAVAILABLE",
    "ABORTED",
    "DEADLINE_EXCEEDED",
    "CANCELLED",
    "Gloo",
    "NCCL",
    "Connection",
    "peer",
    "heartbeat",
)
AGAIN = "All processes end; run the same command to resume from the last checkpoint"
now = time.monotonic


class Peers:
    """This process among `count`.

    A process that is silent for `patience` seconds counts as dead. Process 0 tells the others, and
    all end with exit code 1 and a line that names it.
    """

    def __init__(self, client: Any, index: int, count: int, coordinator: str, patience: float):
        """Join the others. client: of jax.distributed. coordinator: process 0's HOST:PORT."""
        self.index, self.count, self.patience = index, count, patience
        self.interval = min(1.0, patience / 20)
        self._client, self._coordinator = client, coordinator
        self._uses: dict[str, int] = {}
        self._asked: int | None = None  # the signal that this process got
        # the last step begun; the step to stop after, and the signal that asked for it
        self._position, self._stop, self._signal = None, None, None
        # held by the thread while the processes agree on the last step, so that none begins another
        self._between = threading.Lock()
        self._beat, self._heard, self._silent = 0, now(), [("", 0)] * count
        self._closed = threading.Event()
        client.key_value_set(
            f"{NAMES}{index}",
            f"process {index} of {count} (pid {os.getpid()} on {socket.gethostname()})",
        )
        self.names = [client.blocking_key_value_get(f"{NAMES}{i}", FOREVER) for i in range(count)]
        if index:
            self._say_when_aborted()
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._thread.start()

    def barrier(self, name: str) -> None:
        """Wait for all processes; all must call the same barriers in the same order."""
        self._client.wait_at_barrier(f"cv3jax/{name}/{self._use(name)}", FOREVER)

    def share(self, name: str, value: Any) -> Any:
        """Return process 0's `value` (JSON) in all processes."""
        key = f"cv3jax/{name}/{self._use(name)}"
        if self.index == 0:
            self._client.key_value_set(key, json.dumps(value))
        return parse_json(self._client.blocking_key_value_get(key, FOREVER), OWN, nan=True)

    def gather(self, name: str, value: Any) -> list[Any]:
        """Return each process's `value` (JSON) in all processes, in their order."""
        key = f"cv3jax/{name}/{self._use(name)}"
        self._client.key_value_set(f"{key}/{self.index}", json.dumps(value))
        texts = (
            self._client.blocking_key_value_get(f"{key}/{i}", FOREVER) for i in range(self.count)
        )
        return [parse_json(text, OWN, nan=True) for text in texts]

    def last(self, step: int, asked: int | None) -> int | None:
        """Return the signal that stops all processes at this step, or None.

        Call it after each step was begun; `asked` is the signal that this process got, if any. At
        the one step after which all processes stop, the result is the signal that any of them got.
        """
        self._asked = asked
        with self._between:
            self._position = step
            return self._signal if self._stop is not None and step >= self._stop else None

    def suspect(self, error: Exception) -> None:
        """Wait until it is known who died, where `error` looks like the end of another process.

        The thread then ends this process.
        """
        if any(word in str(error) for word in GONE):
            # process 0 counts looks, writes the notice and lets the others read it, which takes
            # longer than `patience`
            self._closed.wait(2 * self.patience)

    def leave(self, message: str, code: int) -> None:
        """End this process, and let the others end with it; `message` says why. Never returns."""
        self._notify("lost", json.dumps([f"{self.names[self.index]} ended: {message}", code]))
        self._exit(code)

    def close(self) -> None:
        """Wait for the others to finish their work, and stop watching."""
        self.barrier("close")
        self._closed.set()
        self._thread.join()

    def _use(self, name: str) -> int:
        self._uses[name] = self._uses.get(name, -1) + 1
        return self._uses[name]

    def _watch(self) -> None:
        import jax

        deciding = False
        while not self._closed.wait(self.interval / 10 if deciding else self.interval):
            try:
                # the one call that fails where process 0 is there and does not answer
                if self.index:
                    self._client.blocking_key_value_get(f"{NAMES}0", int(1000 * self.patience))
                self._client.key_value_set(
                    f"{BEATS}{self.index}", str(self._beat), allow_overwrite=True
                )
                notices = {
                    key.removeprefix(NOTICES): value
                    for key, value in self._client.key_value_dir_get(NOTICES)
                }
                # while the last step is being agreed on, there are ten passes for each look: a
                # process that dies before it has given its position must be noticed too
                if (
                    "lost" not in notices
                    and self.index == 0
                    and (not deciding or self._beat % 10 == 0)
                ):
                    self._look(notices)
                if self._asked and "stop" not in notices:
                    self._notify("stop", str(self._asked))
                if "stop" in notices and self._stop is None and self._position is not None:
                    deciding = self._decide(int(notices["stop"]), deciding)
            except jax.errors.JaxRuntimeError as e:
                if not self._closed.is_set():
                    self._end(
                        self._without_leader()
                        or f"process 0 cannot say which processes are alive ({str(e)[:200]})",
                        1,
                    )
                return
            self._beat, self._heard = self._beat + 1, now()
            if "lost" in notices:
                self._end(*parse_json(notices["lost"]))

    def _look(self, notices: dict[str, str]) -> None:
        """Find the processes whose heartbeat has stopped; only process 0 does this.

        It counts looks and not seconds, because this process may itself have stood still.
        """
        beats = {
            int(key.removeprefix(BEATS)): value
            for key, value in self._client.key_value_dir_get(BEATS)
        }
        self._silent = [
            (beat := beats.get(i, ""), looks + 1 if beat == old else 0)
            for i, (old, looks) in enumerate(self._silent)
        ]
        lost = [
            name
            for name, (_, looks) in zip(self.names, self._silent, strict=True)
            if looks * self.interval > self.patience
        ]
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            silent = (
                f"{lost[0]}{more}: nothing heard for {self.patience:g} s; it has died or cannot be"
                " reached"
            )
            notices["lost"] = json.dumps([f"{silent}. {AGAIN}", 1])
            self._notify("lost", notices["lost"])

    def _decide(self, number: int, deciding: bool) -> bool:
        """Take one step in agreeing on the last step, which is 1 + the furthest step begun by any.

        Returns True while the agreement is not complete.
        """
        if not deciding:
            self._between.acquire()
            self._client.key_value_set(f"{POSITIONS}{self.index}", str(self._position))
        positions = self._client.key_value_dir_get(POSITIONS)
        if len(positions) < self.count:
            return True
        self._stop, self._signal = 1 + max(int(value) for _, value in positions), number
        self._between.release()
        return False

    def _notify(self, name: str, value: str) -> None:
        import jax

        try:
            self._client.key_value_set(NOTICES + name, value)
        except jax.errors.JaxRuntimeError as e:
            if "ALREADY_EXISTS" not in str(e) and self._without_leader() is None:
                raise

    def _without_leader(self) -> str | None:
        """Return what to say when process 0 is gone or silent, or None while it is there."""
        host, _, port = self._coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        except OSError:
            return f"{self.names[0]} has died or cannot be reached. {AGAIN}"
        silent = now() - self._heard
        return (
            f"{self.names[0]}: nothing heard for {silent:.0f} s. {AGAIN}"
            if silent > self.patience
            else None
        )

    def _say_when_aborted(self) -> None:
        """Print which process is missing when JAX aborts this one.

        JAX's own client aborts the process as soon as it misses process 0, before this thread can
        say so.
        """

        @ctypes.CFUNCTYPE(None, ctypes.c_int)
        def aborted(_):
            if message := self._without_leader():
                os.write(2, f"\ncv3jax: {message}\n".encode())
                os._exit(1)

        self._aborted = aborted  # must outlive this call
        ctypes.CDLL(None).signal(signal.SIGABRT, aborted)

    def _end(self, message: str, code: int) -> None:
        os.write(2, f"\ncv3jax: {message}\n".encode())
        self._exit(code)

    def _exit(self, code: int) -> None:
        if self.index == 0:
            time.sleep(3 * self.interval)  # the others read the notice from this process
        os._exit(code)
