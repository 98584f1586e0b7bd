"""The process that serves the page of a study: a socket, signals, and nothing to drain."""

import asyncio
import dataclasses
import socket
from collections.abc import Callable, Mapping
from typing import Any

from cv3jax.evaluation.people.app import make_app
from cv3jax.evaluation.people.desk import Desk
from cv3jax.web.errors import ApiError
from cv3jax.web.gate import Access
from cv3jax.web.listening import address_of, uvicorn_of
from cv3jax.web.protocol import protocol_of
from data_pipeline.io import signals


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of requests and connections, as cv3jax.web.bounds has them: a page asks little."""

    header: int = 8 * 2**10
    body: int = 4 * 2**10
    requests: int = 128
    connections: int = 512
    header_seconds: float = 10.0
    body_seconds: float = 10.0
    idle_seconds: float = 30.0
    write_seconds: float = 60.0


LIMITS = Limits()


class _Silent:
    """Notes nothing: a log would tie names to addresses."""

    def answered(self, scope: Mapping[str, Any], status: int, seconds: float, size: int) -> None:
        """Note nothing."""

    def refused(self, client: tuple[str, int] | None, e: ApiError, seconds: float) -> None:
        """Note nothing."""


def serve(desk: Desk, access: Access, sock: socket.socket, say: Callable[[str], None]) -> None:
    """Serve until a signal; a second one ends at once.

    Every vote is on the disk by the time it is answered.

    say: is told one line about what happens.
    """

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        with signals.heeding(lambda _: loop.call_soon_threadsafe(stop.set)):
            await serve_until(desk, access, sock, say, stop)

    asyncio.run(run())


async def serve_until(
    desk: Desk,
    access: Access,
    sock: socket.socket,
    say: Callable[[str], None],
    stop: asyncio.Event,
) -> None:
    """Serve until `stop` is set."""
    notes = _Silent()
    app = make_app(desk, access, LIMITS, notes)
    web = uvicorn_of(app, protocol_of(LIMITS, notes.refused), LIMITS)
    serving = asyncio.create_task(web.serve([sock]))
    while not web.started and not serving.done():
        await asyncio.sleep(0.01)
    say(f"ready at {address_of(sock)}")
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    web.should_exit = True
    await serving
    say("stopped")
