"""A proxy before an HTTP server that fails now and then as object stores and networks do.

Which requests fail follows from the seed and their number.
"""

import collections
import contextlib
import http.client
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW = 1.5  # seconds
# refused: 503, nothing done; lost: done, and 503 is answered; cut: half of the announced bytes
# come; short: half of the bytes come, announced as all
KINDS = ("refused", "lost", "slow", "cut", "short")
_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}


class Proxy:
    """Count requests and faults of a proxy at `port`. `share` is that of requests that fail."""

    def __init__(self, upstream: int, share: float, seed: int):
        self.upstream, self.share, self.down = upstream, share, False
        self.requests, self.faults = 0, collections.Counter()
        self.forbidden = b""  # what the names of objects have that nobody may write
        self._draws, self._lock = random.Random(seed), threading.Lock()
        self.port = 0

    def fault(self, method: str) -> str | None:
        """Return the kind of fault of the next request, or None."""
        with self._lock:
            self.requests += 1
            if self.down:
                return "refused"
            if self._draws.random() >= self.share:
                return None
            known = KINDS if method == "GET" else KINDS[:3]
            kind = min(known, key=lambda one: self.faults[one])
            self.faults[kind] += 1
            return kind


@contextlib.contextmanager
def before(upstream: int, share: float = 0.01, seed: int = 0) -> Iterator[Proxy]:
    """Run a proxy to the server at the port `upstream` of this machine."""
    proxy = Proxy(upstream, share, seed)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def pass_on(self) -> None:
            body, kind = self._body(), proxy.fault(self.command)
            asked = self.path.encode() + body[:1000]
            if proxy.forbidden and self.command in ("PUT", "POST") and proxy.forbidden in asked:
                return self._answer(403, [], b"")
            if kind == "refused":
                return self._answer(503, [], b"")
            if kind == "slow":
                time.sleep(SLOW)
            status, headers, data = self._ask(body)
            if kind == "lost":
                return self._answer(503, [], b"")
            if kind == "short":
                data = data[: len(data) // 2]
            return self._answer(status, headers, data, cut=kind == "cut" and len(data) > 1)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = pass_on

        def log_message(self, *_) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=60)
            headers = {n: v for n, v in self.headers.items() if n.lower() not in _HOP}
            headers["Content-Length"] = str(len(body))
            try:
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                connection.close()

        def _answer(self, status: int, headers: list, data: bytes, *, cut: bool = False) -> None:
            self.send_response_only(status)
            length = str(len(data))
            for name, value in headers:
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                elif name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.wfile.flush()
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_) -> None:
            """Say nothing of clients that were killed."""

    server = Server(("127.0.0.1", 0), Handler)
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
