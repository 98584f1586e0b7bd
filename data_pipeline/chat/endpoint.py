"""Sending one request to an OpenAI-compatible server, and interpreting its response.

The result is an answer, a reason to try again, or the end of the run. Statuses mean what they mean
to the API's own clients: after 408, 409, 429 and 5xx another attempt may succeed, after other 4xx
it will not. Nothing of the environment is used (proxies, netrc), no redirect is followed, at most
MAX_BODY bytes of a response are read, and no response is unpacked.
"""

import asyncio
import contextlib
import dataclasses
import email.utils
import json
import logging
import math
import time
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

import httpx

from data_pipeline.chat import answers
from data_pipeline.chat.answers import Answer, Failure
from data_pipeline.chat.flag_names import FlagNames
from data_pipeline.chat.secret import LEAST, Secret
from data_pipeline.io.errors import InputError, first_line

MAX_BODY = 2**20  # bytes of a response
_BROKE = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
_FILTERED = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")


_FLAGS = FlagNames()


class StoppedByServerError(OSError):
    """The server no longer answers: no credit is left, or it is gone.

    The same command resumes later.
    """


@dataclasses.dataclass(frozen=True)
class Reply:
    """The result of one attempt.

    `status` is that of HTTP, None where no response came. `pause` is the number of seconds that the
    server asked to wait, None where it did not.
    """

    outcome: Answer | Failure
    status: int | None
    pause: float | None = None


def parse_address(url: str, flags: FlagNames = _FLAGS) -> httpx.URL:
    """Return the address that a flag gives.

    Raises InputError unless its scheme is http or https and it has neither a password nor a query.
    """
    try:
        base = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as e:
        raise InputError(
            f"{flags.address} {url!r} is not a URL ({first_line(e, 120)}); give one like"
            " http://host:8000/v1"
        ) from e
    if base.userinfo or base.query or base.fragment:  # messages and the report show the address
        raise InputError(
            f"{flags.address} has a password or a query in it; give the address alone, and a key"
            f" with {flags.key}"
        )
    try:
        host = base.host.encode("idna") if base.host else b""
    except UnicodeError as e:  # a name that no name server can be asked for
        raise InputError(
            f"{flags.address} {url!r}: no host has this name ({first_line(e, 120)}); give an"
            " address like http://host:8000/v1"
        ) from e
    if base.port is not None and not 0 < base.port < 2**16:
        raise InputError(f"{flags.address} {url!r}: give a port from 1 to 65535")
    if base.scheme not in ("http", "https") or not host:
        raise InputError(f"{flags.address} {url!r}: give an address like http://host:8000/v1")
    return base


def quiet_libraries() -> None:
    """Switch off what the HTTP libraries log of a server's answers, which may repeat the key."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


def check_key(key: str | None) -> None:
    """Raise InputError on a key that no header can carry. The message does not show it."""
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key and key):
        raise InputError(
            "the API key contains a space, a line break or another character that no key has;"
            " set the variable to the key alone"
        )


class Endpoint:
    """A server and the key for it; an async context manager with up to `connections` connections.

    Args:
        url: the address, including /v1.
        key: sent as a bearer token and never shown; None: none.
        timeout: seconds for one request, from its connection to the last byte.
        connections: the largest number of connections.
        flags: the names of the command's flags, for messages.

    Raises:
        InputError: the scheme of `url` is not http or https, or it has a password or a query; `key`
            is not ASCII.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        timeout: float,
        connections: int,
        flags: FlagNames = _FLAGS,
    ):
        """Check the address and the key, and create the client."""
        base = parse_address(url, flags)
        check_key(key)
        quiet_libraries()
        self._secret, self._timeout, self._flags = Secret(key), timeout, flags
        address = str(base).rstrip("/")
        # a short key is often a word such as that of the host, and no secret
        self.url = address if len(key or "") < LEAST else self._secret.redact(address)
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "cv3jax",  # without one, some gateways refuse a request
        }
        self._headers = headers if key is None else {**headers, "Authorization": f"Bearer {key}"}
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._room = asyncio.Semaphore(connections)
        self._clients: list[httpx.AsyncHTTPTransport] = []
        self._idle: list[httpx.AsyncHTTPTransport] = []  # the last one used is the next one taken
        self._to = base.copy_with(path=base.path.rstrip("/") + "/chat/completions")

    async def __aenter__(self) -> "Endpoint":
        """Return the endpoint."""
        return self

    async def __aexit__(self, kind, value, traceback) -> None:
        """Close the connections."""
        async with contextlib.AsyncExitStack() as stack:  # all, also where one fails
            for client in self._clients:
                stack.push_async_callback(client.aclose)

    async def ask(self, request: dict[str, Any], *, identity: str, last: bool) -> Reply:
        """Send one request, once.

        Args:
            request: the body, as JSON.
            identity: a text that is the same for every attempt at one request (Idempotency-Key);
                servers that support it answer the request once.
            last: see `answers.read_answer`.

        Raises:
            InputError: the key, the model or the address is wrong (401, 403, 404, a redirect).
            StoppedByServerError: no credit is left.
        """
        try:
            async with asyncio.timeout(self._timeout):
                status, headers, body = await self._post(json.dumps(request).encode(), identity)
        except (TimeoutError, httpx.TimeoutException):
            return Reply(
                Failure(answers.TIMEOUT, f"no complete response within {self._timeout:g} s"), None
            )
        except httpx.ConnectError as e:
            return Reply(Failure(answers.UNREACHABLE, self._said(first_line(e))), None)
        except httpx.HTTPError as e:  # the response ended early, or is not HTTP
            return Reply(
                Failure(answers.MALFORMED, self._said(f"{type(e).__name__}: {first_line(e)}")), None
            )
        if (packed := headers.get("content-encoding", "identity")) != "identity":
            return Reply(
                Failure(answers.MALFORMED, self._said(f"a response packed by {packed}, unasked")),
                status,
            )
        if len(body) > MAX_BODY:
            return Reply(
                Failure(answers.MALFORMED, f"a response of more than {MAX_BODY:,} bytes"), status
            )
        if status == 200:
            return Reply(answers.read_answer(body, last=last, secret=self._secret), 200)
        return Reply(
            self._failure(status, headers, body), status, retry_after(headers, time.time())
        )

    async def _post(self, content: bytes, identity: str) -> tuple[int, httpx.Headers, bytes]:
        headers = {**self._headers, "Idempotency-Key": identity}
        request = httpx.Request("POST", self._to, headers=headers, content=content)
        async with (
            self._connection() as transport,
            contextlib.aclosing(await transport.handle_async_request(request)) as response,
        ):
            body = b""
            async for part in response.aiter_raw():  # unpacked, a few bytes may become many
                body += part
                if len(body) > MAX_BODY:
                    break
            return response.status_code, response.headers, body

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx.AsyncHTTPTransport]:
        """Yield a client with one connection, which no other request has meanwhile.

        A client with many connections looks at all of them for each request, which costs more than
        sending it.
        """
        async with self._room:
            if self._idle:
                client = self._idle.pop()
            else:
                client = httpx.AsyncHTTPTransport(
                    verify=self._tls,
                    # uvicorn, the server of vLLM and SGLang, closes idle connections after 5 s
                    limits=httpx.Limits(
                        max_connections=1, max_keepalive_connections=1, keepalive_expiry=4
                    ),
                    trust_env=False,
                )
                self._clients.append(client)
            try:
                yield client
            except BaseException:
                # a request that was cancelled may leave a connection that answers no other one
                self._clients.remove(client)
                await client.aclose()
                raise
            self._idle.append(client)

    def _failure(self, status: int, headers: httpx.Headers, body: bytes) -> Failure:
        message, code = answers.error_of(body, self._secret)
        message = self._said(f"{status}: {message}")
        if status == 402 or (status == 429 and any(word in code for word in _BROKE)):
            raise StoppedByServerError(
                f"{self.url} asks for payment ({message}); pay it, and run the same command to"
                " resume"
            )
        if status in (401, 403):
            raise InputError(
                f"{self.url} does not accept the API key ({message}); put the right one into the"
                f" variable that {self._flags.key} names"
            )
        if status == 404:
            raise InputError(
                f"{self.url} has no such model or path ({message}); check {self._flags.model},"
                f" and that {self._flags.address} ends in /v1"
            )
        if 300 <= status < 400:
            to = self._said(urllib.parse.unquote(headers.get("location", "nowhere")))
            raise InputError(
                f"{self.url} redirects to {to!r}; give the final address as {self._flags.address}"
            )
        if status == 429:
            return Failure(answers.LIMITED, message)
        if status in (408, 409) or status >= 500:
            return Failure(answers.SERVER, message)
        if any(word in code for word in _FILTERED):
            return Failure(answers.REFUSED, message)
        return Failure(answers.REJECTED if status >= 400 else answers.MALFORMED, message)

    def _said(self, text: str) -> str:
        """Return a server's text without our key, which some servers repeat."""
        return answers.one_line(self._secret.redact(text))


def retry_after(headers: httpx.Headers, now: float) -> float | None:
    """Return the seconds that a response asks to wait, or None.

    It reads Retry-After in seconds or as a date (RFC 9110 §10.2.3), or OpenAI's retry-after-ms.
    None where there is none, or it cannot be read. It may be infinite. now: seconds since the
    epoch.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name, "")
        try:
            seconds = float(text) / unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(text).timestamp() - now
            except (ValueError, TypeError, OverflowError):
                continue
        if not math.isnan(seconds):
            return max(0.0, seconds)
    return None
