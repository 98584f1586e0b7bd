"""A server of raw bytes, for answers that no library would send."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator


def reply(status: str, body: bytes | str = b"", *headers: str) -> bytes:
    """Return an answer of HTTP with its length."""
    body = body.encode(errors="surrogatepass") if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def chunked(status: str, parts: list[bytes]) -> bytes:
    """Return an answer whose body comes in chunks."""
    head = f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head.encode() + body + b"0\r\n\r\n"


@contextlib.contextmanager
def running(answer: Callable[[str], bytes]) -> Iterator[str]:
    """Yield the address of a server that sends `answer(path)` to every request."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            path, size = self.rfile.readline().split()[1].decode(), 0
            while line := self.rfile.readline().strip():
                name, _, value = line.partition(b":")
                size = int(value) if name.lower() == b"content-length" else size
            self.rfile.read(size)
            with contextlib.suppress(OSError):
                self.wfile.write(answer(path))
                self.request.shutdown(socket.SHUT_WR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
