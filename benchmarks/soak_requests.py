"""Requests of serve_soak.py: good ones, and those of clients that leave or send nonsense."""

import asyncio
import contextlib
import dataclasses
import http.client
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import bad_requests
import http_server

DRAW, EDIT, JOBS = "/v1/images/generations", "/v1/images/edits", "/v1/jobs"
SHARES = {
    "draw": 40,
    "job": 15,
    "enlarge": 5,
    "stream": 5,
    "leave": 10,  # before the answer
    "leave the stream": 5,  # after its first event
    "cancel": 10,
    "malformed": 8,
    "broken connection": 2,
}
REFUSALS = (429, 503, 507)  # a full queue, a server that stops, and a full disk


@dataclasses.dataclass
class Seen:
    """What clients saw.

    `accepted`: ids of jobs. `cancelled`: those that a client asked to cancel. `wrong`: answers that
    should not be.
    """

    accepted: set[str] = dataclasses.field(default_factory=set)
    cancelled: set[str] = dataclasses.field(default_factory=set)
    wrong: list[str] = dataclasses.field(default_factory=list)
    counts: Counter = dataclasses.field(default_factory=Counter)

    def answer(self, what: str, status: int, body: bytes, fine: tuple[int, ...]) -> bool:
        """Note an answer, and return whether its status is one of `fine`.

        Refusals are counted. Any other status, a body that is no error of OpenAI's form, and a
        trace of Python's stack are wrong.
        """
        self.counts[f"{what}: {status}"] += 1
        if b"Traceback" in body or b'File "' in body:
            self.wrong.append(f"{what}: a traceback: {body[:200]!r}")
        if status in fine:
            return True
        try:
            said = {*json.loads(body)["error"]}
        except (ValueError, KeyError, TypeError):
            said = set()
        if status not in REFUSALS or said != {"message", "type", "param", "code"}:
            self.wrong.append(f"{what}: {status} {body[:200]!r}")
        return False


class Clients:
    """Sends random requests to the server at `address`, which a restart may change."""

    def __init__(self, address: str, seed: int, prompt: str = "a large red circle"):
        """Prepare; each request gets a prompt and a seed of its own."""
        self.address, self.seen, self._prompt = address, Seen(), prompt
        self._random, self._number = random.Random(seed), 0
        self._bad = bad_requests.every()
        self._upload = http_server.png(40, 40)

    async def one(self, session: httpx.AsyncClient) -> str:
        """Send one request, and return its kind. Raises httpx.HTTPError where the server goes."""
        kind = self._random.choices([*SHARES], [*SHARES.values()])[0]
        self._number += 1
        await getattr(self, f"_{kind.replace(' ', '_')}")(session)
        return kind

    def _body(self, **more: Any) -> dict[str, Any]:
        return {"prompt": f"{self._prompt}, {self._number}", "seed": self._number, **more}

    def _accepted(self, answer: httpx.Response) -> None:
        if (job := answer.headers.get("x-job-id")) is not None:
            self.seen.accepted.add(job)

    async def _post(
        self, session: httpx.AsyncClient, what: str, path: str, fine: int = 200, **sent: Any
    ) -> httpx.Response | None:
        answer = await session.post(self.address + path, **sent)
        self._accepted(answer)
        return (
            answer if self.seen.answer(what, answer.status_code, answer.content, (fine,)) else None
        )

    async def _draw(self, session: httpx.AsyncClient) -> None:
        count = self._random.choice((1, 1, 2))
        answer = await self._post(session, "draw", DRAW, json=self._body(n=count))
        if answer is not None and len(answer.json()["data"]) != count:
            self.seen.wrong.append(f"draw: {len(answer.json()['data'])} pictures of {count}")

    async def _enlarge(self, session: httpx.AsyncClient) -> None:
        files = {"image": ("a.png", self._upload, "image/png")}
        data = {name: str(value) for name, value in self._body().items()}
        await self._post(session, "enlarge", EDIT, data=data, files=files)

    async def _started(self, session: httpx.AsyncClient, what: str) -> str | None:
        answer = await self._post(session, what, JOBS, 202, json=self._body())
        return None if answer is None else answer.json()["id"]

    async def _job(self, session: httpx.AsyncClient) -> None:
        """Begin a job and look at it once; half of the clients wait for its end."""
        if (job := await self._started(session, "job")) is None:
            return
        waits = self._random.random() < 0.5
        while True:
            answer = await session.get(f"{self.address}{JOBS}/{job}")
            if not self.seen.answer("look", answer.status_code, answer.content, (200,)):
                return
            if not waits or answer.json()["state"] in ("done", "failed", "cancelled"):
                return
            await asyncio.sleep(0.05)

    async def _cancel(self, session: httpx.AsyncClient) -> None:
        if (job := await self._started(session, "cancel")) is None:
            return
        await asyncio.sleep(self._random.random() * 0.02)
        self.seen.cancelled.add(job)
        answer = await session.delete(f"{self.address}{JOBS}/{job}")
        self.seen.answer("cancel", answer.status_code, answer.content, (200,))

    async def _stream(self, session: httpx.AsyncClient, *, leave: bool = False) -> None:
        what, body = "stream", self._body(stream=True, partial_images=2)
        async with session.stream("POST", self.address + DRAW, json=body) as answer:
            self._accepted(answer)
            if answer.status_code != 200:
                self.seen.answer(what, answer.status_code, await answer.aread(), (200,))
                return
            text = ""
            async for piece in answer.aiter_text():
                text += piece
                if leave:
                    self.seen.counts["stream: left"] += 1
                    return
        self.seen.answer(what, 200, text.encode(), (200,))
        if "image_generation.completed" not in text and "server_stopping" not in text:
            self.seen.wrong.append(f"stream: no picture in {text[-200:]!r}")

    async def _leave_the_stream(self, session: httpx.AsyncClient) -> None:
        await self._stream(session, leave=True)

    async def _raw(self, data: bytes, seconds: float) -> None:
        """Send bytes over a connection of their own, and close it without reading an answer."""
        url = httpx.URL(self.address)
        try:
            _, writer = await asyncio.open_connection(url.host, url.port)
        except OSError as e:
            raise httpx.ConnectError(str(e)) from e
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            await asyncio.sleep(seconds)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def _written(self, body: bytes, length: int) -> bytes:
        host = httpx.URL(self.address).netloc.decode()
        head = f"POST {DRAW} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {length}\r\n\r\n".encode() + body

    async def _leave(self, session: httpx.AsyncClient) -> None:
        body = json.dumps(self._body()).encode()
        await self._raw(self._written(body, len(body)), self._random.random() * 0.03)
        self.seen.counts["leave"] += 1

    async def _broken_connection(self, session: httpx.AsyncClient) -> None:
        body = json.dumps(self._body()).encode()
        half = self._written(body[:-5], len(body))
        nonsense = self._random.randbytes(300)
        await self._raw(self._random.choice((half, half[:40], nonsense)), 0.01)
        self.seen.counts["broken connection"] += 1

    async def _malformed(self, session: httpx.AsyncClient) -> None:
        bad = self._random.choice(self._bad)
        try:
            status, body = await asyncio.to_thread(self._sent, bad)
        except (OSError, http.client.HTTPException) as e:
            raise httpx.ReadError(str(e)) from e
        self.seen.answer("malformed", status, body, (bad.status,))

    def _sent(self, bad: bad_requests.Bad) -> tuple[int, bytes]:
        """Send a request as it is, with a path and headers that no client would write."""
        url = httpx.URL(self.address)
        connection = http.client.HTTPConnection(url.host, url.port, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(bad.method, bad.path, skip_host="Host" in bad.headers)
            for name, value in bad.headers.items():
                connection.putheader(name, value)
            if bad.body is not None:
                connection.putheader("Content-Length", str(len(bad.body)))
            connection.endheaders(bad.body)
            answer = connection.getresponse()
            return answer.status, answer.read()
