"""A loopback server that expands prompts as it is told, or misbehaves.

`actions` maps a prompt to what becomes of its requests, one after the other; the last one stays. An
action is the text of an answer, or one of the names in `Answering.act`. `asked` has the prompts of
all requests, and `chats` their messages.
"""

import collections
import contextlib
import gzip
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL, KEY = "writer", "sk-secret-of-the-tests"
_PROMPT = re.compile(r"<prompt>(.*)</prompt>", re.S)


def long(prompt: str) -> str:
    """Return what the server makes of a prompt by default."""
    return f"A detailed picture of {prompt}, seen from the front in soft light."


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Any

    def log_message(self, *args) -> None:
        pass

    def do_POST(self) -> None:
        owner = self.owner
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if owner.key and self.headers.get("authorization") != f"Bearer {owner.key}":
            return self.say(401, {"error": {"message": f"no: {self.headers['authorization']}"}})
        if body["model"] != MODEL or self.path != "/v1/chat/completions":
            return self.say(404, {"error": {"message": "no such model"}})
        asked = [m["content"] for m in body["messages"] if m["role"] == "user"]
        prompt = [found[1] for text in asked if (found := _PROMPT.search(text))][-1]
        with owner.lock:
            actions = owner.actions.get(prompt, owner.actions.get("*", (long(prompt),)))
            action = actions[min(owner.counts[prompt], len(actions) - 1)]
            owner.counts[prompt] += 1
            owner.asked.append(prompt)
            owner.chats.append(body["messages"])
            owner.bodies.append(body)
            owner.at_once += 1
            owner.most_at_once = max(owner.most_at_once, owner.at_once)
        time.sleep(owner.latency)
        try:
            self.act(action)
        finally:
            with owner.lock:
                owner.at_once -= 1
        return None

    def act(self, action: str) -> None:
        if action.isdigit():
            return self.say(int(action), {"error": {"message": f"status {action}"}})
        if action == "redirect":
            return self.send(307, b"", {"Location": "http://127.0.0.1:9/v1/chat/completions"})
        if action == "page":
            return self.send(200, b"<html>Log in</html>", {"Content-Type": "text/html"})
        if action == "no-choices":
            return self.say(200, {"object": "chat.completion", "choices": []})
        if action == "half":
            whole = json.dumps(self.answer("x")).encode()
            return self.send(200, whole[: len(whole) // 2], {})
        if action == "cut":
            self.send(200, b'{"choices": [', {}, length=1000)
            self.close_connection = True
            return None
        if action == "bomb":  # 16 MiB of zeros in a few kilobytes
            packed = gzip.compress(bytes(2**24), 1)
            return self.send(200, packed, {"Content-Encoding": "gzip"})
        if action == "huge":
            self.send(200, b" " * 2**20, {}, length=2**40)
            self.wfile.write(b" " * 2**21)
            self.close_connection = True
            return None
        if action == "drip":  # a byte now and then, for ever
            self.send(200, b" ", {}, length=2**20)
            while not self.owner.closing.wait(0.02):
                self.wfile.write(b" ")
                self.wfile.flush()
            self.close_connection = True
            return None
        special = {
            "length": self.answer("A picture that ends in the mid", finish="length"),
            "no-finish": self.answer("A picture.", finish=None),
            "empty": self.answer(""),
            "endless-thought": self.answer("<think>What would the user like"),
            "refusal": self.answer("I'm sorry, but I can't help with that request."),
        }
        return self.say(200, special.get(action, self.answer(action)))

    def answer(self, text: str, finish: str | None = "stop") -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}

    def say(self, status: int, value: dict[str, Any]) -> None:
        self.send(status, json.dumps(value).encode(), {})

    def send(
        self, status: int, body: bytes, extra: Mapping[str, str], length: int | None = None
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/json", **extra}
        headers["Content-Length"] = str(len(body) if length is None else length)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address) -> None:
        """Pass over clients that hang up, which is what the tests are about."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Serving:
    """The server's state; `url` is the endpoint."""

    def __init__(self, actions: Mapping[str, Sequence[str]], key: str | None, latency: float):
        self.actions, self.key, self.latency = actions, key, latency
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.counts: collections.Counter[str] = collections.Counter()
        self.asked: list[str] = []
        self.chats: list[list[dict[str, str]]] = []
        self.bodies: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.url = ""


@contextlib.contextmanager
def expansion_server(
    actions: Mapping[str, Sequence[str]] | None = None,
    *,
    key: str | None = None,
    latency: float = 0.0,
) -> Iterator[Serving]:
    """Run a server during the block; the prompt "*" is any other one."""
    state = Serving(actions or {}, key, latency)

    class Handler(Answering):
        owner = state

    http = _Quiet(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    threading.Thread(target=lambda: http.serve_forever(0.02), daemon=True).start()
    try:
        yield state
    finally:
        state.closing.set()
        http.shutdown()
        http.server_close()
