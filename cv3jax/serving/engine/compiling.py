"""Compile the lanes' programs for fixed numbers of rows, and say what memory they take."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from cv3jax.cascade.memory import NoRoomError, room
from cv3jax.serving.engine.lanes import START, TEXT, Lane
from cv3jax.serving.engine.pool import Store
from cv3jax.serving.engine.programs import Packed
from cv3jax.serving.engine.rows import INTEGERS, NUMBERS
from data_pipeline.io.errors import first_line

ADVICE = (
    "give a smaller --batch, fewer or smaller sizes, or more devices: --mesh fsdp=N shards the"
    " parameters, context=N the pictures"
)


class Compiled(NamedTuple):
    """A program for units of `shape` rows."""

    lane: Lane
    shape: int
    run: Any
    temporary: int  # bytes on a device beside parameters and pools


def shapes_down_from(batch: int, ways: int) -> list[int]:
    """Return the numbers of rows that units may have, largest first: halves of `batch`.

    ways: devices that share the rows of a batch, which each number is a multiple of.
    """
    shapes = [batch]
    while shapes[-1] % (2 * ways) == 0:
        shapes.append(shapes[-1] // 2)
    return shapes


def compiled(lane: Lane, store: Store, shape: int, tokens: int, mesh: Mesh | None) -> Compiled:
    """Return a lane's program for units of `shape` rows; prompts have so many tokens.

    Raises NoRoomError where the devices have too little memory to compile or to run it.
    """
    what, packed = f"units of {shape} rows of {lane}", like(lane, shape, tokens)
    with no_room(what):
        run = store.programs[lane].jitted.lower(*store.arguments(lane), packed).compile()
    plan = run.memory_analysis()
    if plan is None:  # a backend that does not tell
        return Compiled(lane, shape, run, 0)
    taken = plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    check_room(what, taken, mesh)
    return Compiled(lane, shape, run, taken)


@contextlib.contextmanager
def no_room(what: str) -> Iterator[None]:
    """Raise NoRoomError in place of the devices' own error of too little memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in first_line(e, 200):
            raise
        raise NoRoomError(f"{what} need more memory than is free; {ADVICE}") from e


def like(lane: Lane, shape: int, tokens: int) -> Packed:
    """Return what a unit of `shape` rows takes from the host, of zeros."""
    given = None
    if lane.kind == TEXT:
        given = np.zeros((shape, tokens), np.int32)
    elif lane.kind == START and lane.stage == "relay":
        given = np.zeros((shape, *lane.size.divided(2), 3), np.uint8)
    return Packed(
        np.zeros((shape, 4), np.int32),
        np.zeros((shape, len(INTEGERS)), np.int32),
        np.zeros((shape, len(NUMBERS)), np.float32),
        given,
    )


def text_shapes(cascade: Any, networks: dict[str, Any], slots: int) -> dict[str, Any]:
    """Return the shapes of `slots` texts' keys and values, by stage."""
    tokens = jax.ShapeDtypeStruct((slots, cascade.description.t5.length), np.int32)
    features = jax.eval_shape(cascade.encode_text, cascade.params["t5"], tokens)
    return {
        stage: jax.eval_shape(network.read_text, cascade.params[stage], features)
        for stage, network in networks.items()
    }


def check_room(what: str, needed: int, mesh: Mesh | None) -> None:
    """Raise NoRoomError where `what` needs more bytes on a device than are free."""
    if needed > (free := room(mesh)):
        raise NoRoomError(f"{what} need {needed / 1e9:.2f} GB, of {free / 1e9:.2f} free; {ADVICE}")
