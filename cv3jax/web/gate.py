"""What every request passes through: its sender, its key, its body's bounds, its line in the log.

It also gives each answer the headers that keep a browser from doing more than showing it.
"""

import asyncio
import contextlib
import dataclasses
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from cv3jax.web.bounds import Bounds, Keys, Notes
from cv3jax.web.errors import ApiError

Message = MutableMapping[str, Any]
Receive, Send = Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]
FILES = "/v1/files/"  # whose names are secrets themselves, so that a page's <img> can show them
PROBES = ("/healthz", "/readyz")  # which say how a busy server is
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_LINGER = (1.0, 64 * 2**20)  # seconds and bytes of a refused body that are read and thrown away


@dataclasses.dataclass(frozen=True)
class Access:
    """Who may ask.

    keys: None lets all. origins: of web pages besides the server's own. hosts: the names by which
    the server may be called; None: by any. public: the server's own origin where a proxy gives it
    another name.
    """

    keys: Keys | None = None
    origins: tuple[str, ...] = ()
    hosts: frozenset[str] | None = None
    public: str | None = None


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: Any, access: Access, limits: Bounds, notes: Notes):
        """Keep the parts."""
        self._app, self._access, self._limits, self._notes = app, access, limits, notes
        self._open = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, body, status = time.monotonic(), _Body(receive, self._limits), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                await body.discard(status)
                message = {**message, "headers": _headers(scope, message["headers"], body)}
            await send(message)

        method = scope["method"]
        if method == "HEAD":  # as GET; the connection leaves the body away
            scope = {**scope, "method": "GET"}
        scope.setdefault("state", {})["owner"] = ""
        self._open += 1
        try:
            self._check(scope, body)
            await self._app(scope, body.receive, answer)
        except ApiError as e:
            scope["state"]["code"] = e.code
            await _say(e, answer)
        finally:
            self._open -= 1
            seconds = time.monotonic() - began
            self._notes.answered({**scope, "method": method}, status, seconds, body.size)

    def _check(self, scope: Message, body: "_Body") -> None:
        """Raise ApiError on a request that is not to be read any further."""
        if self._open > self._limits.requests and scope["path"] not in PROBES:
            raise ApiError(
                503, "too many requests at once; try again", code="overloaded", retry_after=1
            )
        headers = dict(scope["headers"])
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size + len(scope["raw_path"]) + len(scope["query_string"]) > self._limits.header:
            raise ApiError(
                431,
                f"the request's header is larger than {self._limits.header:,} bytes",
                code="header_too_large",
            )
        body.check(headers)
        check_sender(headers, scope["method"], self._access)
        path = scope["path"]
        asks = (path.startswith("/v1/") and not path.startswith(FILES)) or path == "/metrics"
        if self._access.keys is not None and asks:
            owner = self._access.keys.owner(headers.get(b"authorization"))
            scope["state"]["owner"] = owner
            if scope["method"] == "POST":
                self._access.keys.take(owner)


class _Body:
    """A request's body, of bounded size and time."""

    def __init__(self, receive: Receive, limits: Bounds):
        """Begin to count the time."""
        self._receive, self._limits = receive, limits
        self._until = time.monotonic() + limits.body_seconds
        self.size, self.whole, self.closes, self._waits = 0, False, False, False

    def check(self, headers: dict[bytes, bytes]) -> None:
        """Raise ApiError on a body that is too large by what its header says."""
        self._waits = b"expect" in headers  # for our word before it sends
        if b"content-length" in headers and b"transfer-encoding" in headers:
            self.closes = True  # a proxy may think that its end is elsewhere
            raise ApiError(
                400,
                "both Content-Length and Transfer-Encoding; send one of them",
                code="invalid_http",
            )
        if headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
            self.whole = True
        with contextlib.suppress(ValueError):
            if int(headers.get(b"content-length", b"0")) > self._limits.body:
                raise self._too_large()

    async def receive(self) -> Message:
        """Return the next message. Raises ApiError on a body that is too large or too slow."""
        if self.whole:
            return await self._receive()
        try:
            left = self._until - time.monotonic()
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except TimeoutError as e:
            raise ApiError(
                408,
                f"the request's body did not come within {self._limits.body_seconds:g} s",
                code="request_timeout",
            ) from e
        self.size += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.size > self._limits.body:
            raise self._too_large()
        return message

    async def discard(self, status: int) -> None:
        """Read a little of what is left, so that the client is done sending when it is answered."""
        seconds, most = _LINGER
        if self.whole or self._waits or status == 408:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.whole and most > 0:
                    message = await self._receive()
                    most -= len(message.get("body", b""))
                    self.whole = not message.get("more_body", False)

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"the request's body is larger than {self._limits.body:,} bytes",
            code="body_too_large",
        )


def hosts_of(host: str, public: str | None) -> frozenset[str] | None:
    """Return the names by which a server at `host` is called besides loopback addresses.

    None: by any, where others than this machine can reach it.
    """
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        return None
    return frozenset({"localhost", *([urlsplit(public).netloc] if public else [])})


def check_sender(headers: dict[bytes, bytes], method: str, access: Access) -> None:
    """Raise ApiError on a request of another site's page, or to a name that is not this server's.

    A page may let a browser send forms to any address, and give its own name our address.
    """
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if access.hosts is not None and not _is_known(host, access.hosts):
        raise ApiError(
            403,
            "this server answers to its loopback names alone; start it with --public-url to give it"
            " another",
            code="unknown_host",
        )
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    own = (*access.origins, access.public)
    if method in ("GET", "HEAD", "OPTIONS") or not origin or origin in own:
        return
    if origin.partition("://")[2] != host:
        raise ApiError(
            403,
            "pages of other origins may not use this server; start it with --cors to let one",
            code="cross_origin",
        )


def _is_known(host: str, known: frozenset[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in known or host in known:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _headers(scope: Message, given: Any, body: _Body) -> list[tuple[bytes, bytes]]:
    """Return an answer's headers with those of every answer; what the answer says itself counts."""
    found = list(given)
    names = {name.lower() for name, _ in found}
    for name, value in _HEADERS.items():
        if name.encode() not in names:
            found.append((name.encode(), value.encode()))
    if body.closes or not body.whole:  # the rest of it would be taken for the next request
        found.append((b"connection", b"close"))
    return found


async def _say(e: ApiError, send: Send) -> None:
    data = json.dumps(e.body()).encode()
    headers = {**e.headers(), "content-type": "application/json", "content-length": str(len(data))}
    await send(
        {
            "type": "http.response.start",
            "status": e.status,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": data})
