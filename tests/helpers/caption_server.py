"""A loopback server that answers /v1/chat/completions as the API does, misbehaves on schedule, and
remembers every request.

Which record a request is about it reads from the image, whose red, green and blue make its number
(`solid`), which turn from the number of answers in the chat. A schedule is a function of (record,
turn, attempt), all from 0, that names an action:

    ok, slow (after `delay` seconds), hang (never), cut (the connection ends in the middle of the
        body), malformed, empty, blank, truncated, filtered, refusal, sorry, unmeasured, huge (a
        body that does not end), control, error-in-200, or a status such as 500, 429 (with
        `retry_after`), 400, redirect

Alone, with the limit and the schedule of benchmarks/recaption.py:

    python tests/helpers/caption_server.py --limit 100

It prints its address, and when standard input ends what it has seen, as JSON.
"""

import argparse
import base64
import collections
import io
import json
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

MODEL, KEY = "captioner", "sk-loopback-secret"
REFUSAL = "I'm sorry, but I can't assist with that request."
Schedule = Callable[[int, int, int], str]


class Seen(NamedTuple):
    """One request: when it came (seconds), what it was about, what was done, and its headers and
    body.
    """

    time: float
    record: int
    turn: int
    action: str
    headers: dict[str, str]
    body: dict[str, Any]


def solid(number: int, side: int = 8) -> np.ndarray:
    """The image of record `number`: uint8 [side, side, 3] of one colour."""
    return np.full((side, side, 3), [number >> 16, number >> 8 & 255, number & 255], np.uint8)


def answer_of(record: int, turn: int) -> str:
    return f"answer {turn} of {record}: {{caption}} \N{GREEK SMALL LETTER SIGMA}"


class Bucket:
    """A limit of `rate` requests a second, `burst` at once; None: no limit."""

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
    """A context manager; `url` is the endpoint.

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

        class Handler(_Handler):
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
        """Checks a request as the API would, and decides what becomes of it."""
        record, turn = read_request(body)
        limited = not self.bucket.take()
        with self._lock:
            attempt = self._attempts[record, turn]
            action = "limited" if limited else self.schedule(record, turn, attempt)
            self._attempts[record, turn] += not limited
            self.seen.append(Seen(time.monotonic(), record, turn, action, headers, body))
        return record, turn, action

    def entered(self, number: int) -> None:
        """So many more requests are under way; one ends just before its response, for after that
        the client may send another.
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
        """(record, turn) of every request so far, or of those with one of these actions."""
        return [(s.record, s.turn) for s in self.seen if not actions or s.action in actions]


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address) -> None:
        """A client that is gone, or was killed, is what the tests are about; anything else is an
        error of this file.
        """
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: CaptionServer

    def log_message(self, *args) -> None:
        pass

    def do_POST(self) -> None:
        owner = self.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        data = self.rfile.read(int(headers["content-length"]))
        if self.path != "/v1/chat/completions":
            return self.say(404, {"error": {"message": f"no {self.path}", "code": 404}})
        if headers.get("authorization") != f"Bearer {KEY}":
            return self.say(
                401,
                {
                    "error": {
                        "message": f"Incorrect API key: {headers.get('authorization')}",
                        "code": "invalid_api_key",
                    }
                },
            )
        try:
            body = json.loads(data)
            if body["model"] != MODEL:
                error = {
                    "object": "error",
                    "message": f"The model `{body['model']}` does not exist.",
                    "type": "NotFoundError",
                    "code": 404,
                }
                return self.say(404, error)
            record, turn, action = owner.note(headers, body)
        except (ValueError, KeyError, TypeError, IndexError, OSError) as e:
            owner.wrong.append(f"{type(e).__name__}: {e}")
            return self.say(
                400,
                {
                    "error": {
                        "message": f"{type(e).__name__}: {e}",
                        "type": "invalid_request_error",
                        "code": None,
                    }
                },
            )
        owner.entered(1)
        time.sleep(owner.latency)
        self.act(record, turn, action)

    def act(self, record: int, turn: int, action: str) -> None:
        """The response to a request that was in order."""
        owner, text, finish = self.owner, answer_of(record, turn), "stop"
        usage: dict[str, int] | None = {
            "prompt_tokens": 100 + turn,
            "completion_tokens": 10,
            "total_tokens": 110 + turn,
        }
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if action in ("429", "limited", "broke", "redirect") or action.isdigit():
            owner.entered(-1)
        if action in ("429", "limited"):
            extra = {"Retry-After": owner.retry_after} if owner.retry_after else {}
            return self.say(
                429,
                {
                    "error": {
                        "message": "Rate limit reached",
                        "type": "requests",
                        "code": "rate_limit_exceeded",
                    }
                },
                extra,
            )
        if action == "broke":
            return self.say(
                429,
                {
                    "error": {
                        "message": "You exceeded your current quota",
                        "type": "insufficient_quota",
                        "code": None,
                    }
                },
            )
        if action == "redirect":
            return self.say(307, {}, {"Location": "http://example.invalid/v1/chat/completions"})
        if action.isdigit():
            return self.say(
                int(action),
                {"error": {"message": f"status {action}", "type": "server_error", "code": None}},
            )
        if action == "hang":
            owner.entered(-1)
            owner.closing.wait(60)
            self.close_connection = True
            return None
        if action == "slow":
            time.sleep(owner.delay)
        owner.entered(-1)
        if action == "malformed":
            return self.send(200, b"<html>Bad gateway</html>", {})
        if action == "error-in-200":
            return self.say(200, {"error": {"message": "upstream is overloaded", "code": 502}})
        if action == "huge":
            self.send(200, b" " * 2**20, {}, length=2**40)
            self.wfile.write(b" " * 2**20)
            self.close_connection = True
            return None
        message |= {
            "empty": {"content": None},
            "blank": {"content": " \n "},
            "sorry": {"content": REFUSAL},
            "refusal": {"content": None, "refusal": "I cannot look at this."},
            "control": {"content": "a \x1b[31mcaption"},
        }.get(action, {})
        finish = {"truncated": "length", "filtered": "content_filter"}.get(action, finish)
        answer: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        }
        body = json.dumps(answer if action == "unmeasured" else answer | {"usage": usage}).encode()
        if action == "cut":
            self.send(200, body[: len(body) // 2], {}, length=len(body))
            self.close_connection = True
            return None
        self.send(200, body, {})
        return owner.answered()

    def say(self, status: int, value: dict[str, Any], extra: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(value).encode(), extra or {})

    def send(
        self, status: int, body: bytes, extra: dict[str, str], length: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in extra.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def read_request(body: dict[str, Any]) -> tuple[int, int]:
    """(record, turn) of a chat, after checking its shape.

    Raises:
        ValueError, KeyError, TypeError, IndexError, OSError: it is not what the API takes.
    """
    chat = [m for m in body["messages"] if m["role"] != "system"]
    if [m["role"] for m in chat] != [("user", "assistant")[i % 2] for i in range(len(chat))] or len(
        chat
    ) % 2 == 0:
        raise ValueError(f"roles {[m['role'] for m in body['messages']]}")
    parts = chat[0]["content"]
    if sorted(part["type"] for part in parts) != ["image_url", "text"]:
        raise ValueError("the first message has an image and a text")
    if not all(isinstance(m["content"], str) and m["content"] for m in chat[1:]):
        raise ValueError("later messages are texts")
    url = next(part["image_url"]["url"] for part in parts if part["type"] == "image_url")
    head, _, data = url.partition(",")
    if head not in ("data:image/png;base64", "data:image/jpeg;base64", "data:image/webp;base64"):
        raise ValueError(f"not a data URL of an image: {head[:60]}")
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    if f"data:{Image.MIME[image.format]};base64" != head:
        raise ValueError(f"{head} holds a {image.format}")
    red, green, blue = image.convert("RGB").getpixel((0, 0))
    return red << 16 | green << 8 | blue, len(chat) // 2


KINDS = ("500", "slow", "cut", "malformed", "empty", "truncated", "sorry", "503")


def misbehaving(record: int, turn: int, attempt: int) -> str:
    """The benchmark's schedule: each tenth record meets something, one of KINDS after the other,
    the first time in one of three turns.

    Empty, truncated and refused answers are the end of a record: 3 of 80.
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
