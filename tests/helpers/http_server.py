"""Run the HTTP side of the server in a thread of the test, with an engine of squares."""

import asyncio
import contextlib
import dataclasses
import functools
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import square_engine
from PIL import Image

from cv3jax.checkpoints import cascades
from cv3jax.commands import serve as command
from cv3jax.serving.http.access_log import AccessLog
from cv3jax.serving.http.limits import Limits
from cv3jax.serving.http.plan import Model
from cv3jax.serving.http.server import Server, serve_until
from cv3jax.web.gate import Access, hosts_of
from cv3jax.web.listening import address_of, listen


@functools.cache
def model() -> Model:
    """Return the packaged scenes as the routes know them; its parameters are not loaded."""
    args = command.parser().parse_args(["--checkpoint", "scenes"])
    return command.model_of(args, *cascades.read_cascade("scenes"))


@dataclasses.dataclass
class Answer:
    """An answer over plain HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return self.json["error"]["code"]


@dataclasses.dataclass
class Running:
    """A running server."""

    address: str
    engine: square_engine.SquareEngine
    data: Path
    said: list[str] = dataclasses.field(default_factory=list)
    loop: asyncio.AbstractEventLoop | None = None
    stop: asyncio.Event | None = None
    hurry: asyncio.Event | None = None
    thread: threading.Thread | None = None
    figures: dict[str, int] | None = None

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send JSON, or bytes as they are."""
        headers = dict(headers or {})
        data = body
        if body is not None and not isinstance(body, bytes):
            data = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(
            self.address + path, data=data, headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, _lower(answer.headers), answer.read())
        except urllib.error.HTTPError as e:
            return Answer(e.code, _lower(e.headers), e.read())

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.ask("POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()})

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, {k.replace("_", "-"): v for k, v in headers.items()})

    def openai(self, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.address}/v1", api_key=key, max_retries=0, timeout=60, **options
        )

    def wait(self, id: str, *states: str, **headers: str) -> dict[str, Any]:
        """Return a job when it is in one of these states, or else at its end."""
        while True:
            time.sleep(0.005)
            said = self.get(f"/v1/jobs/{id}", **headers).json
            if said["state"] in (*states, "done", "failed", "cancelled"):
                return said

    def end(self, *, hurry: bool = False) -> None:
        """Stop the server as a signal does, or two, and wait for its end."""
        self.loop.call_soon_threadsafe(self.stop.set)
        if hurry:
            self.loop.call_soon_threadsafe(self.hurry.set)
        self.thread.join()


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@contextlib.contextmanager
def running(
    data: Path,
    engine: square_engine.SquareEngine | None = None,
    *,
    log: str | None = None,
    access: Access | None = None,
    bounds: dict[str, Any] | None = None,
    **parts: Any,
) -> Iterator[Running]:
    """Yield a server that keeps its journal in `data`; it ends with the block.

    bounds: of `Limits`. parts: of `Server`.
    """
    engine = engine or square_engine.SquareEngine()
    limits = Limits(**{"drain": 20.0, **(bounds or {})})
    sock = listen("127.0.0.1", 0, limits)
    access = access or Access(hosts=hosts_of("127.0.0.1", None))
    data.mkdir(exist_ok=True)
    parts.setdefault("model", model())
    log_prompts = parts.pop("log_prompts", False)
    server = Server(
        engine=engine,
        data=data,
        access=access,
        limits=limits,
        log=AccessLog(log, prompts=log_prompts),
        **parts,
    )
    found, ready = Running(address_of(sock), engine, data), threading.Event()

    def say(line: str) -> None:
        found.said.append(line)
        if line.startswith("ready"):
            ready.set()

    async def main() -> None:
        found.loop = asyncio.get_running_loop()
        found.stop, found.hurry = asyncio.Event(), asyncio.Event()
        found.figures = await serve_until(server, sock, say, found.stop, found.hurry)

    def run() -> None:
        try:
            asyncio.run(main())
        finally:
            ready.set()

    found.thread = threading.Thread(target=run)
    found.thread.start()
    ready.wait()
    try:
        yield found
    finally:
        if found.thread.is_alive():
            engine.hurry.set()
            found.end(hurry=True)


def png(width: int, height: int, mode: str = "RGB", colour: Any = "red") -> bytes:
    """Return a picture of one colour as PNG."""
    out = io.BytesIO()
    Image.new(mode, (width, height), colour).save(out, "PNG")
    return out.getvalue()


def form(parts: list[tuple[str, str | bytes]], boundary: str = "x") -> tuple[bytes, str]:
    """Return (a multipart body, its content type); bytes are sent as a file."""
    body = b""
    for name, value in parts:
        file = '; filename="a.png"' if isinstance(value, bytes) else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        value = value.encode() if isinstance(value, str) else value
        body += head.encode() + value + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
