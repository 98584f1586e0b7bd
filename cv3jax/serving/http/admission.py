"""Whether a request is taken: by the time it would wait, the queue's length and the disk."""

import asyncio

from cv3jax.serving.http.drawing import Drawing
from cv3jax.serving.http.limits import Limits
from cv3jax.serving.orders import Engine, Order
from cv3jax.web.errors import ApiError
from data_pipeline.io.errors import InputError


async def admit(drawing: Drawing, engine: Engine, limits: Limits, orders: list[Order]) -> None:
    """Raise ApiError where these orders are not taken now; the error says when they may be."""
    _check_open(drawing)
    try:
        seconds = await asyncio.to_thread(engine.seconds, orders)
    except InputError as e:  # such as more steps than a stage has times
        raise ApiError(400, str(e), code="cannot_be_drawn") from e
    _check_open(drawing)  # it may have changed meanwhile
    waiting = drawing.waiting
    if waiting and waiting + len(orders) > limits.max_queue:
        share = len(orders) / (waiting + len(orders))
        raise ApiError(
            429,
            f"{waiting} pictures wait, and with {len(orders)} more they are over the"
            f" {limits.max_queue} that the server takes; try again later",
            code="queue_full",
            retry_after=seconds * share,
        )
    if seconds <= limits.max_wait:
        return
    if not waiting:  # later it would take as long
        raise ApiError(
            400,
            f"this takes about {seconds:.0f} s, and the server takes what is done within"
            f" {limits.max_wait:g} s; ask for fewer pictures or steps, or a smaller size",
            code="takes_too_long",
        )
    raise ApiError(
        429,
        f"this would be done in about {seconds:.0f} s, and the server takes what is done within"
        f" {limits.max_wait:g} s; try again later",
        code="server_busy",
        retry_after=seconds - limits.max_wait,
    )


def _check_open(drawing: Drawing) -> None:
    if drawing.draining:
        raise ApiError(
            503, "the server stops; ask another one", code="server_stopping", retry_after=10
        )
    if drawing.disk is not None:
        raise ApiError(507, "the server cannot write its disk; try again later", code="disk_full")
