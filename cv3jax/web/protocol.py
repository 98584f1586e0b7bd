"""Connections with bounds that uvicorn's do not have: slow headers, slow readers, too many.

Its refusals have the body of OpenAI's errors.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from cv3jax.web.bounds import Bounds
from cv3jax.web.errors import ApiError

Refused = Callable[[tuple[str, int] | None, ApiError, float], None]


def protocol_of(limits: Bounds, refused: Refused) -> type[H11Protocol]:
    """Return the class of a server's connections.

    refused: is told (the client's address, the error, the seconds since it came or since its last
    request) of what is refused without being a request.
    """

    class Connection(H11Protocol):
        """A connection."""

        _header: asyncio.TimerHandle | None = None
        _writing: asyncio.TimerHandle | None = None
        _came = False  # whether anything was received since the last request
        _since = 0.0  # when the connection was made, or was idle again

        def connection_made(self, transport: Any) -> None:
            """Take a connection, or close it where there are too many."""
            super().connection_made(transport)
            self._since = time.monotonic()
            if len(self.connections) > limits.connections:
                self._refuse(ApiError(503, "too many connections; try again", code="overloaded"))
                return
            self._header = self.loop.call_later(limits.header_seconds, self._late)

        def connection_lost(self, exc: Exception | None) -> None:
            """Forget the timers."""
            self._stop()
            if self._writing is not None:
                self._writing.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            """Take bytes; a request that has begun has `header_seconds` for its header."""
            self._came = True
            super().data_received(data)
            if self._busy or self.transport.is_closing():
                self._stop()
                self._came = False
            elif self._header is None:
                self._header = self.loop.call_later(limits.header_seconds, self._late)

        def pause_writing(self) -> None:
            """Wait for a client that does not read, but not for long."""
            super().pause_writing()
            self._writing = self.loop.call_later(limits.write_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            """Go on writing."""
            if self._writing is not None:
                self._writing.cancel()
                self._writing = None
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            """Answer what is not HTTP."""
            self._refuse(ApiError(400, msg, code="invalid_http"))

        def _late(self) -> None:
            self._header = None
            if self._came:
                seconds = f"{limits.header_seconds:g} s"
                message = f"the request's header did not come within {seconds}"
                self._refuse(ApiError(408, message, code="request_timeout"))
            else:
                self.transport.close()

        def on_response_complete(self) -> None:
            """Take note that the connection is idle again."""
            self._since = time.monotonic()
            super().on_response_complete()

        @property
        def _busy(self) -> bool:
            """Whether a request is being answered."""
            return self.cycle is not None and not self.cycle.response_complete

        def _refuse(self, e: ApiError) -> None:
            self._stop()
            if self._busy and self.cycle.response_started:  # two answers in one would be none
                self.transport.close()
                return
            if not self._busy:  # else the request is noted, which has lost its client
                refused(self.client, e, time.monotonic() - self._since)
            phrase = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}
            data = json.dumps(e.body()).encode()
            head = (
                f"HTTP/1.1 {e.status} {phrase[e.status]}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(data)}\r\nx-content-type-options: nosniff\r\n"
                "connection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + data)
            self.transport.close()

        def _stop(self) -> None:
            if self._header is not None:
                self._header.cancel()
                self._header = None

    return Connection
