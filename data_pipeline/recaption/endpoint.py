"""One request to an OpenAI-compatible server, and what its response means: an answer, a reason to
try again, or the end of the run.

Statuses as the API's own clients take them: 408, 409, 429 and 5xx may go better another time, other
4xx may not. Nothing of the environment is used (proxies, netrc), no redirect is followed, and a
response is read up to MAX_BODY bytes.
"""

import asyncio
import dataclasses
import email.utils
import json
import math
import time
from typing import Any

import httpx

from data_pipeline.io.errors import InputError, first_line
from data_pipeline.recaption import answers
from data_pipeline.recaption.answers import Answer, Failure

MAX_BODY = 2**20  # bytes of a response
_BROKE = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
_FILTERED = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")


class StoppedByServerError(OSError):
    """The server answers nobody any more: no credit is left, or it is gone.

    Another day the same command goes on.
    """


@dataclasses.dataclass(frozen=True)
class Reply:
    """Of one attempt.

    `status`: of HTTP, None where none came; `pause`: seconds that the server asked to wait, None
    where it did not.
    """

    outcome: Answer | Failure
    status: int | None
    pause: float | None = None


def parse_address(url: str) -> httpx.URL:
    """Return the address that --endpoint gives.

    Raises InputError unless it is one of http or https, without a password or a query.
    """
    try:
        base = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as e:
        raise InputError(
            f"--endpoint {url!r} is not a URL ({first_line(e, 120)}); give one like"
            " http://host:8000/v1"
        ) from e
    if base.userinfo or base.query or base.fragment:  # it stands in messages and in the report
        raise InputError(
            "--endpoint has a password or a query in it; give the address alone, and a key by"
            " --api-key-env"
        )
    if base.scheme not in ("http", "https") or not base.host:
        raise InputError(f"--endpoint {url!r}: give an address like http://host:8000/v1")
    return base


class Endpoint:
    """A server and the key for it. An async context manager, which holds `connections` connections.

    Args:
        url: up to and with /v1.
        key: sent as a bearer token and said nowhere; None: none.
        timeout: seconds of one request from its connection to the last byte.

    Raises:
        InputError: `url` is not one of http or https, or has a password or a query in it; `key` is
            not ASCII.
    """

    def __init__(self, url: str, *, key: str | None, timeout: float, connections: int):
        base = parse_address(url)
        if key is not None and not (
            key.isascii() and key.isprintable() and key.strip() == key and key
        ):
            raise InputError(
                "the API key has a space, a line break or another character at its ends or within"
                " that no key has"
            )
        self.url = str(base).rstrip("/")
        self._key, self._timeout = key, timeout
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        self._client = httpx.AsyncClient(
            headers=headers if key is None else {**headers, "Authorization": f"Bearer {key}"},
            timeout=None,  # httpx's are between two bytes; `ask` has one for the whole
            # uvicorn, vLLM's and SGLang's server, closes idle connections after 5 seconds
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=4,
            ),
            trust_env=False,
            follow_redirects=False,
        )
        self._to = base.copy_with(path=base.path.rstrip("/") + "/chat/completions")

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, kind, value, traceback) -> None:
        await self._client.aclose()

    async def ask(self, request: dict[str, Any], *, identity: str, last: bool) -> Reply:
        """Sends one request, once.

        Args:
            request: the body, as JSON.
            identity: the same for every attempt at the same request (Idempotency-Key); servers that
                know it answer it once.
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
                Failure(answers.TIMEOUT, f"no whole response within {self._timeout:g} s"), None
            )
        except httpx.ConnectError as e:
            return Reply(Failure(answers.UNREACHABLE, self._said(first_line(e))), None)
        except httpx.HTTPError as e:  # cut off in the middle, or not HTTP
            return Reply(
                Failure(answers.MALFORMED, self._said(f"{type(e).__name__}: {first_line(e)}")), None
            )
        if len(body) > MAX_BODY:
            return Reply(
                Failure(answers.MALFORMED, f"a response of more than {MAX_BODY:,} bytes"), status
            )
        if status == 200:
            outcome = answers.read_answer(body, last=last)
            return Reply(
                (
                    dataclasses.replace(outcome, detail=self._said(outcome.detail))
                    if isinstance(outcome, Failure)
                    else outcome
                ),
                200,
            )
        return Reply(
            self._failure(status, headers, body), status, retry_after(headers, time.time())
        )

    async def _post(self, content: bytes, identity: str) -> tuple[int, httpx.Headers, bytes]:
        async with self._client.stream(
            "POST", self._to, content=content, headers={"Idempotency-Key": identity}
        ) as response:
            body = b""
            async for part in response.aiter_bytes():
                body += part
                if len(body) > MAX_BODY:
                    break
            return response.status_code, response.headers, body

    def _failure(self, status: int, headers: httpx.Headers, body: bytes) -> Failure:
        message, code = answers.error_of(body)
        message = self._said(f"{status}: {message}")
        if status == 402 or (status == 429 and any(word in code for word in _BROKE)):
            raise StoppedByServerError(
                f"{self.url} wants payment ({message}); when that is settled the same command"
                " goes on"
            )
        if status in (401, 403):
            raise InputError(
                f"{self.url} does not accept the API key ({message}); --api-key-env names the"
                " variable that holds it"
            )
        if status == 404:
            raise InputError(
                f"{self.url} has no such model or path ({message}); check --model, and that"
                " --endpoint ends in /v1"
            )
        if 300 <= status < 400:
            raise InputError(
                f"{self.url} redirects to {headers.get('location', 'nowhere')!r}; give the final"
                " address as --endpoint"
            )
        if status == 429:
            return Failure(answers.LIMITED, message)
        if status in (408, 409) or status >= 500:
            return Failure(answers.SERVER, message)
        if any(word in code for word in _FILTERED):
            return Failure(answers.REFUSED, message)
        return Failure(answers.REJECTED if status >= 400 else answers.MALFORMED, message)

    def _said(self, text: str) -> str:
        """What a server said, without our key: some repeat it."""
        return answers.one_line(text.replace(self._key, "***") if self._key else text)


def retry_after(headers: httpx.Headers, now: float) -> float | None:
    """Seconds that a response asks to wait: Retry-After in seconds or as a date (RFC 9110 §10.2.3),
    or OpenAI's retry-after-ms.

    None where it says nothing, or nothing that can be read. `now`: seconds since the epoch.
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
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
