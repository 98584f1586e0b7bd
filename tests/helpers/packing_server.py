"""A server whose answers are small and become large if they are unpacked."""

import contextlib
import gzip
import http.server
import threading
import zlib
from collections.abc import Iterator

SIZE = 2**28  # bytes of an answer when it is unpacked


def _gzip() -> bytes:
    return gzip.compress(bytes(SIZE), 1)


def _deflate() -> bytes:
    return zlib.compress(bytes(SIZE), 1)


def _zstd() -> bytes:
    """Return a frame of blocks that repeat one byte (RFC 8878, §3.1.1)."""
    head = b"\x28\xb5\x2f\xfd\x00\x58"  # no content size, a window of 2 MiB
    block = 2**17
    repeated = ((block << 3) | 2).to_bytes(3, "little") + b"\0"
    last = ((block << 3) | 3).to_bytes(3, "little") + b"\0"
    return head + repeated * (SIZE // block - 1) + last


PACKED = {"gzip": _gzip, "deflate": _deflate, "zstd": _zstd}


@contextlib.contextmanager
def serving(encoding: str) -> Iterator[str]:
    """Yield the address of a server that answers everything with SIZE packed bytes."""
    data = PACKED[encoding]()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Encoding", encoding)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has gone
                self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            del args

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
