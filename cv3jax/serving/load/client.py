"""Send load to a server: at the times of an open loop, or so many requests at a time."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from cv3jax.serving.load.arrivals import Arrival, Outcome
from data_pipeline.chat.endpoint import check_key, quiet_libraries
from data_pipeline.chat.secret import Secret
from data_pipeline.io.bounded_json import OWN, SETTINGS, ParseError, parse_json
from data_pipeline.io.errors import InputError, first_line

PATH = "/v1/images/generations"
MAX_BODY = 2**28  # bytes of an answer; a picture of 2048² in base64 has at most 17 million
MAX_SAID, MAX_ERROR = 2**20, 2**16  # bytes of an answer of text, and of one that is an error
MAX_CODE = 80  # characters of an error that are shown
Draw = Callable[[dict[str, Any]], Awaitable[str | None]]  # sends a body; returns an error or None
Step = Callable[[], object]  # called after each answer


def client(url: str, key: str | None = None, timeout: float = 600.0) -> httpx.AsyncClient:
    """Return a client of the server at `url` whose connections are not limited.

    Raises InputError on a key that no header can carry.
    """
    check_key(key)
    quiet_libraries()
    headers = {"Accept-Encoding": "identity"}
    headers |= {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(
        base_url=url,
        headers=headers,
        timeout=timeout,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
        trust_env=False,
    )


async def exchange(
    session: httpx.AsyncClient, method: str, path: str, body: Any = None
) -> httpx.Response:
    """Return a server's whole answer. Nothing is unpacked: a few bytes may become many.

    An answer that is not of a picture has no part of the key, and MAX_SAID bytes at most; an
    error has MAX_ERROR.

    Raises httpx.HTTPError where there is none, it is packed, or it has more than MAX_BODY bytes.
    """
    async with session.stream(method, path, json=body) as answer:
        if (packed := answer.headers.get("content-encoding", "identity")) != "identity":
            raise httpx.DecodingError(f"an answer packed by {packed[:40]}, unasked")
        data = bytearray()
        async for part in answer.aiter_raw():
            data += part
            if len(data) > MAX_BODY:
                raise httpx.DecodingError(f"an answer of more than {MAX_BODY:,} bytes")
    error = answer.status_code != 200
    if path != PATH or error:
        text = data[: MAX_ERROR if error else MAX_SAID].decode("latin-1")
        data = _secret_of(session).redact(text).encode("latin-1")
    return httpx.Response(answer.status_code, content=bytes(data), request=answer.request)


def _secret_of(session: httpx.AsyncClient) -> Secret:
    return _secret(session.headers.get("authorization", "").removeprefix("Bearer "))


@functools.lru_cache(maxsize=4)
def _secret(key: str) -> Secret:
    return Secret(key)


async def get(session: httpx.AsyncClient, path: str) -> httpx.Response:
    """Return what a server says at a path. Raises InputError where it does not."""
    try:
        answer = await exchange(session, "GET", path)
    except (httpx.HTTPError, httpx.InvalidURL) as e:
        said = _secret_of(session).redact(first_line(e)) or type(e).__name__
        raise InputError(f"{session.base_url}: {said}") from e
    if answer.status_code != 200:
        raise InputError(f"{session.base_url}{path}: {answer.status_code} {code_of(answer)}")
    return answer


async def get_json(session: httpx.AsyncClient, path: str) -> dict[str, Any]:
    """Return the object that a server has at a path. Raises InputError where it has none."""
    answer = await get(session, path)
    try:
        value = parse_json(answer.content, SETTINGS)
    except ParseError as e:
        raise InputError(f"{session.base_url}{path}: not JSON ({e})") from e
    if not isinstance(value, dict):
        raise InputError(f"{session.base_url}{path}: not a JSON object")
    return value


def code_of(answer: httpx.Response) -> str:
    """Return the code of an OpenAI error, or the beginning of an answer of another form."""
    try:
        said = str(parse_json(answer.content)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        said = answer.content.decode(errors="replace")
    return " ".join(said[:MAX_CODE].split())


def draw_of(session: httpx.AsyncClient) -> Draw:
    """Return the function that asks a server for a picture and reads its whole answer."""

    async def draw(body: dict[str, Any]) -> str | None:
        try:
            answer = await exchange(session, "POST", PATH, body)
        except httpx.HTTPError as e:
            return type(e).__name__
        if answer.status_code != 200:
            return f"{answer.status_code} {code_of(answer)}"
        try:
            drawn = bool(parse_json(answer.content, OWN)["data"][0]["b64_json"])
        except (ValueError, LookupError, TypeError):
            drawn = False
        return None if drawn else "200 without a picture"

    return draw


async def open_loop(
    draw: Draw, load: Sequence[Arrival], step: Step = lambda: None
) -> list[Outcome]:
    """Send each request at its time, whatever became of those before, and return the outcomes."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for one in load:
            await asyncio.sleep(max(began + one.at - time.monotonic(), 0.0))
            tasks.append(group.create_task(_send(draw, one, began, step)))
    return [task.result() for task in tasks]


async def closed_loop(
    draw: Draw, load: Sequence[Arrival], clients: int, step: Step = lambda: None
) -> list[Outcome]:
    """Keep `clients` requests under way until all are sent; each is due when it is sent."""
    began, left, outcomes = time.monotonic(), iter(load), []

    async def one_after_the_other() -> None:
        for one in left:
            due = one._replace(at=time.monotonic() - began)
            outcomes.append(await _send(draw, due, began, step))

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one_after_the_other())
    return outcomes


async def _send(draw: Draw, one: Arrival, began: float, step: Step) -> Outcome:
    sent = time.monotonic() - began
    error = await draw(one.body)
    step()
    return Outcome(one.kind.name, one.at, sent, time.monotonic() - began, error)
