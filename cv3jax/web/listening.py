"""Listening sockets, and uvicorn as the servers of this package run it."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from cv3jax.web.bounds import Bounds
from data_pipeline.io.errors import InputError

FLUSH = 5.0  # seconds for answers that are being sent when the server ends
BACKLOG = 512


def listen(host: str, port: int, limits: Bounds) -> socket.socket:
    """Return a socket that listens; port 0 is any that is free.

    The system ends connections whose other end is gone. Raises InputError where nobody can listen
    there.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        milliseconds = int(limits.write_seconds * 1000)
        for name, value in (
            ("TCP_KEEPIDLE", 30),
            ("TCP_KEEPINTVL", 10),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", milliseconds),
        ):
            if hasattr(socket, name):  # Linux has them; accepted connections inherit them
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as e:
        raise InputError(
            f"--host {host} --port {port}: {e.strerror or e}; give another address or port"
        ) from e
    made.setblocking(False)
    return made


class _Uvicorn(uvicorn.Server):
    """uvicorn without its handlers of signals, which end the process by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def uvicorn_of(app: Any, protocol: type[asyncio.Protocol], limits: Bounds) -> uvicorn.Server:
    """Return the server of an application, without uvicorn's own log and signals."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.idle_seconds,
        timeout_graceful_shutdown=FLUSH,
    )
    return _Uvicorn(config)


def address_of(sock: socket.socket) -> str:
    """Return the address of a listening socket, as a browser takes it."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
