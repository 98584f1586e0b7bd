"""The process: sockets, signals, what is resumed at the start and drained at the end."""

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import Callable
from pathlib import Path

from cv3jax.serving.http import journal as journals
from cv3jax.serving.http.access_log import AccessLog
from cv3jax.serving.http.app import make_app
from cv3jax.serving.http.book import Book
from cv3jax.serving.http.context import Context
from cv3jax.serving.http.expansions import Expansions
from cv3jax.serving.http.finishing import Finisher, Safety
from cv3jax.serving.http.limits import Limits
from cv3jax.serving.http.metrics import Metrics
from cv3jax.serving.http.notes import Notes
from cv3jax.serving.http.plan import Model
from cv3jax.serving.http.store import JOURNAL, Store
from cv3jax.serving.orders import Engine
from cv3jax.web.gate import Access
from cv3jax.web.listening import address_of, uvicorn_of
from cv3jax.web.protocol import protocol_of
from data_pipeline.expansion.run import Expander
from data_pipeline.io import signals
from data_pipeline.io.errors import counted


@dataclasses.dataclass(frozen=True)
class Server:
    """What a server is made of.

    Attributes:
        model, engine: what is served; the engine is started by `serve`.
        data: the directory of the journal and the pictures.
        access, limits, log: who may ask, how much, and what is noted.
        expander, safety: of prompts and pictures, or None.
        public: the address by which clients call, or None.
    """

    model: Model
    engine: Engine
    data: Path
    access: Access
    limits: Limits
    log: AccessLog
    expander: Expander | None = None
    safety: Safety | None = None
    public: str | None = None


def serve(server: Server, sock: socket.socket, say: Callable[[str], None]) -> dict[str, int]:
    """Serve until SIGTERM or SIGINT, drain, and return how many jobs were resumed and are left.

    say: is told one line about what happens. Raises OSError and InputError before anything is
    served.
    """

    async def run() -> dict[str, int]:
        stop, hurry = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def note(number: int) -> None:  # the second one does not wait
            loop.call_soon_threadsafe((hurry if asked else stop).set)
            asked.append(number)

        asked: list[int] = []
        with signals.heeding(note, times=2):
            return await serve_until(server, sock, say, stop, hurry)

    return asyncio.run(run())


async def serve_until(
    server: Server,
    sock: socket.socket,
    say: Callable[[str], None],
    stop: asyncio.Event,
    hurry: asyncio.Event,
) -> dict[str, int]:
    """Serve until `stop` is set, drain until `hurry` is, and return as `serve` does."""
    limits, engine = server.limits, server.engine
    kept = journals.Journal(server.data / JOURNAL)
    finisher = Finisher(Store(server.data), server.model, limits.pixels, server.safety)
    metrics = Metrics(lambda: engine.gauges)
    book = Book(engine, kept, finisher, limits, metrics.count)
    async with contextlib.AsyncExitStack() as stack:
        expand = None
        if server.expander is not None:
            await stack.enter_async_context(server.expander.model)
            expand = Expansions(server.expander, say, prompts=server.log.prompts)
        context = Context(
            server.model,
            engine,
            book,
            limits,
            metrics,
            expand,
            server.safety is not None,
            server.public,
        )
        engine.start()
        if again := await book.resume():
            say(f"drawing {counted(again, 'job')} that a process before accepted")
        notes = Notes(metrics, server.log)
        protocol = protocol_of(limits, notes.refused)
        web = uvicorn_of(make_app(context, server.access, notes), protocol, limits)
        sweeping = asyncio.create_task(book.sweep())
        serving = asyncio.create_task(web.serve([sock]))
        while not web.started and not serving.done():
            await asyncio.sleep(0.01)
        say(f"ready at {address_of(sock)}")
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        say(f"stopping; what is accepted is drawn for at most {limits.drain:g} s")
        left = await book.drain(limits.drain, hurry)
        web.should_exit = True
        await serving
        sweeping.cancel()
        await book.close()
    say(f"stopped; {counted(left, 'job')} left for the next start" if left else "stopped")
    return {"resumed": again, "left": left}
