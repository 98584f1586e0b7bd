"""Measure a server: warm it up, put a load on it, and read what its engine did meanwhile."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from cv3jax.serving.load import scrape
from cv3jax.serving.load.arrivals import Kind, Outcome, arrivals, summary
from cv3jax.serving.load.client import (
    MAX_CODE,
    client,
    closed_loop,
    draw_of,
    get,
    get_json,
    open_loop,
)

CLIENTS = 16  # at saturation, where the server does not say how many rows a batch has
MAX_BATCH = 4096  # rows that are believed
BATCHES = 4  # at saturation, of requests under way


@dataclasses.dataclass(frozen=True)
class Load:
    """A load: `num` requests of a mixture, after `warm_up` others.

    rate: requests a second, or None for saturation by `clients` requests at a time; None is four
    of the server's batches.
    """

    kinds: Sequence[Kind]
    rate: float | None
    num: int
    clients: int | None = None
    warm_up: int = 8
    seed: int = 0


def measure(
    url: str,
    load: Load,
    key: str | None = None,
    timeout: float = 600.0,
    step: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Return the figures of a load on the server at `url`. step: called after each answer.

    Raises InputError where there is no server or it wants another key, and where there are too few
    requests for saturation.
    """
    return asyncio.run(_measure(url, load, key, timeout, step))


async def _measure(
    url: str, load: Load, key: str | None, timeout: float, step: Callable[[], object]
) -> dict[str, Any]:
    async with client(url, key, timeout) as session:
        can = await get_json(session, "/v1/capabilities")
        batch = _batch(can)
        clients = None
        if load.rate is None:
            clients = load.clients or (BATCHES * batch if batch else CLIENTS)
        draw = draw_of(session)
        if load.warm_up:
            # other pictures than those that are measured
            others = arrivals(load.kinds, None, load.warm_up, load.seed + load.num)
            await closed_loop(draw, others, batch or CLIENTS, step)
        before = scrape.engine_samples((await get(session, "/metrics")).text)
        began = time.monotonic()
        outcomes = await _sent(draw, load, clients, step)
        seconds = time.monotonic() - began
        after = scrape.engine_samples((await get(session, "/metrics")).text)
    return {
        "model": _word(can.get("model")),
        "version": _word(can.get("version")),
        "batch": batch,
        "rate": load.rate,
        "clients": clients,
        "mix": {kind.name: kind.share for kind in load.kinds},
        "seed": load.seed,
        "seconds": {"load": round(seconds, 3)},
        **summary(outcomes, clients),
        "engine": scrape.between(before, after),
    }


async def _sent(draw, load: Load, clients: int | None, step: Callable[[], object]) -> list[Outcome]:
    asked = arrivals(load.kinds, load.rate, load.num, load.seed)
    if clients is None:
        return await open_loop(draw, asked, step)
    return await closed_loop(draw, asked, clients, step)


def _batch(can: dict[str, Any]) -> int | None:
    """Return how many rows a batch of the server has, or None where it does not say."""
    engine = can.get("engine")
    batch = engine.get("batch") if isinstance(engine, dict) else None
    return batch if type(batch) is int and 0 < batch <= MAX_BATCH else None


def _word(value: Any) -> str | None:
    return value[:MAX_CODE] if isinstance(value, str) else None
