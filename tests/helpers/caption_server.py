"""Serve /v1/chat/completions on loopback as the API does, with scheduled faults.

The server remembers every request. It reads the record's number from the image's red, green and
blue (`solid`), and the turn from the number of answers in the chat. A schedule is a function of
(record, turn, attempt), all from 0, that returns an action:

    ok, slow (after `delay` seconds), hang (never), cut (the connection ends in the middle of the
        body), malformed, empty, blank, truncated, filtered, refusal, sorry, unmeasured, huge (a
        body that does not end), control, error-in-200, or a status such as 500, 429 (with
        `retry_after`), 400, redirect

It also runs alone, with the limit and the schedule of benchmarks/recaption.py:

    python tests/helpers/caption_server.py --limit 100

Then it prints its address. When standard input ends, it prints all requests as JSON.
"""

import argparse
import collections
import json
import sys
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any, NamedTuple

from caption_answers import Answering, read_request

Schedule = Callable[[int, int, int], str]


class Seen(NamedTuple):
    """Hold one request: its time (seconds), its record and turn, the action, headers and body."""

    time: float
    record: int
    turn: int
    action: str
    headers: dict[str, str]
    body: dict[str, Any]


class Bucket:
    """Limit requests to `rate` a second, `burst` at once; without a rate there is no limit."""

    def __init__(self, rate: float | None, burst: float):
        self.rate, self.burst, self.level, self.last = rate, burst, burst, time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> bool:
        if self.rate is None:
            return True
        with self._lock:
            now = time.monotonic()
            self.level, self.last = min(self.burst, self.level + (now - self.last) * self.rate), now
            if self.level < 1:
                return False
            self.level -= 1
            return True


class CaptionServer:
    """Serve captions inside a `with` block; `url` is the endpoint.

    `on_answer` is called after each whole 200 with the number of those so far.
    """

    def __init__(
        self,
        schedule: Schedule = lambda record, turn, attempt: "ok",
        *,
        latency: float = 0.0,
        delay: float = 0.0,
        retry_after: str | None = "0.01",
        bucket: Bucket | None = None,
        on_answer: Callable[[int], None] = lambda n: None,
    ):
        self.schedule, self.latency, self.delay, self.retry_after = (
            schedule,
            latency,
            delay,
            retry_after,
        )
        self.bucket, self.on_answer = bucket or Bucket(None, 1), on_answer
        self.seen: list[Seen] = []
        self.wrong: list[str] = []  # what a real server would have refused
        self.most_at_once = self.at_once = 0
        self.closing = threading.Event()
        self._attempts: collections.Counter[tuple[int, int]] = collections.Counter()
        self._lock = threading.Lock()
        self._answered = 0
        server = self

        class Handler(Answering):
            owner = server

        self._http = _Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> "CaptionServer":
        threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def note(self, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, int, str]:
        """Check a request as the API would, and decide the action."""
        record, turn = read_request(body)
        limited = not self.bucket.take()
        with self._lock:
            attempt = self._attempts[record, turn]
            action = "limited" if limited else self.schedule(record, turn, attempt)
            self._attempts[record, turn] += not limited
            self.seen.append(Seen(time.monotonic(), record, turn, action, headers, body))
        return record, turn, action

    def entered(self, number: int) -> None:
        """Add `number` to the requests under way.

        A request ends just before its response, because the client may send another after that.
        """
        with self._lock:
            self.at_once += number
            self.most_at_once = max(self.most_at_once, self.at_once)

    def answered(self) -> None:
        with self._lock:
            self._answered += 1
            number = self._answered
        self.on_answer(number)

    def asked(self, *actions: str) -> list[tuple[int, int]]:
        """Return (record, turn) of every request so far, or of those with one of these actions."""
        return [(s.record, s.turn) for s in self.seen if not actions or s.action in actions]


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address) -> None:
        """Ignore clients that have gone: they are what the tests are about.

        Any other error is one of this file.
        """
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


KINDS = ("500", "slow", "cut", "malformed", "empty", "truncated", "sorry", "503")


def misbehaving(record: int, turn: int, attempt: int) -> str:
    """Return the action of the benchmark's schedule.

    Each tenth record meets one of KINDS in turn, the first time in one of three turns. Empty,
    truncated and refused answers end a record: 3 of 80.
    """
    if record % 10 or turn != record // 80 % 3 or attempt:
        return "ok"
    return KINDS[record // 10 % len(KINDS)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=float, default=100, help="requests a second")
    parser.add_argument("--burst", type=float, default=10, help="requests that may come at once")
    args = parser.parse_args()
    bucket = Bucket(args.limit, args.burst)
    with CaptionServer(
        misbehaving, latency=0.02, delay=1.0, retry_after="1", bucket=bucket
    ) as server:
        print(server.url, flush=True)
        sys.stdin.read()
        seen = [[s.time, s.record, s.turn, s.action] for s in server.seen]
        print(json.dumps({"seen": seen, "wrong": server.wrong}), flush=True)


if __name__ == "__main__":
    main()
