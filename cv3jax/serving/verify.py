"""Find the numbers of rows at which a row's result is the same to the bit, whatever is beside it.

XLA may compute a row in another order where a batch has another number of rows. Of each lane, the
largest shape is the reference: its rows must not depend on their position, or on the other rows.
Smaller shapes are used where they give the same bits.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.serving.compiling import Compiled
from cv3jax.serving.lanes import START, STEP, TEXT, Lane
from cv3jax.serving.pool import Store
from cv3jax.serving.programs import Packed
from cv3jax.serving.rows import INTEGERS, NUMBERS, stage_key, table
from data_pipeline.io.errors import InputError

RUNS = 4  # of a smaller shape


class Verified(NamedTuple):
    """What probes show of a lane."""

    used: dict[int, float]  # the shapes that give the same bits, and the seconds of a unit
    differing: int | None  # the largest shape that does not


class Probes:
    """Rows with random contents, twice as many as a batch has, in as many slots of the pools.

    slots: of the pools; tokens: of a prompt, out of a vocabulary.
    """

    def __init__(
        self, description: CascadeDescription, store: Store, batch: int, slots: int, seed: int = 0
    ):
        """Draw the rows' numbers."""
        self._description, self._store = description, store
        self._batch, self._beyond = batch, slots
        self._draws = np.random.default_rng(seed)
        self._fingerprints: dict[str, Callable] = {}

    def verify(self, lane: Lane, compile_at: Callable[[int], Compiled], shapes: list[int]) -> tuple:
        """Return (`Verified`, the programs of the used shapes).

        shapes: largest first; those after the first that differs are not tried. Raises InputError
        where rows of the largest depend on each other.
        """
        probe = self._probe(lane)
        used, programs, reference = {}, [], None
        for shape in shapes:
            program = compile_at(shape)
            seconds, found = self._found(lane, program, probe, shape == self._batch)
            if reference is None:
                reference = found[:1] and _merged(found[:2])
                found = found[2:]
            if not all(_agree(reference, each) for each in found):
                if not used:
                    raise InputError(
                        f"{lane} at {shape} rows: a row's result depends on the rows beside it, so"
                        " pictures would too; give another --attention or --batch"
                    )
                return Verified(used, shape), programs
            used[shape] = seconds
            programs.append(program)
        return Verified(used, None), programs

    def _found(
        self, lane: Lane, program: Compiled, probe: Packed, largest: bool
    ) -> tuple[float, list[dict[int, bytes]]]:
        """Return (the seconds of a unit, what each run gives each probe)."""
        batch, shape = self._batch, program.shape
        mixed = self._draws.permutation(2 * batch)
        if largest:
            runs = [np.arange(batch), np.arange(batch, 2 * batch), mixed[:batch], mixed[batch:]]
            runs.append(mixed[:batch][::-1])
        else:
            runs = [self._draws.permutation(2 * batch)[:shape] for _ in range(RUNS)]
        runs.append(mixed[:1])  # and all others are filling
        before = jax.tree.map(np.asarray, self._store.written(lane)) if lane.kind == STEP else {}
        seconds, found = [], []
        for rows in runs:
            for name, value in before.items():
                self._store.written_to(lane)[name] = self._store.put(name, value)
            packed = self._arranged(probe, rows, shape)
            began = time.monotonic()
            made = self._store.run(lane, program.run, packed)
            jax.block_until_ready((made, self._store.written(lane)))
            seconds.append(time.monotonic() - began)
            found.append(self._result(lane, made, rows))
        for name, value in before.items():
            self._store.written_to(lane)[name] = self._store.put(name, value)
        return statistics.median(seconds[1:]), found

    def _result(self, lane: Lane, made: Any, rows: np.ndarray) -> dict[int, bytes]:
        """Return the bits, or their fingerprint, of what a unit wrote and made for each probe."""
        written = self._store.written(lane)
        marks = np.zeros((2 * self._batch, 2), np.uint32)
        if written:
            axis = 1 if lane.kind == TEXT else 0
            key = f"{lane}"
            if key not in self._fingerprints:
                self._fingerprints[key] = jax.jit(_fingerprint, static_argnums=2)
            slots = jnp.arange(2 * self._batch)
            marks = np.asarray(self._fingerprints[key](written, slots, axis))
        values = None if isinstance(made, tuple) else np.asarray(made)
        return {
            int(probe): marks[probe].tobytes() + (b"" if values is None else values[i].tobytes())
            for i, probe in enumerate(rows)
        }

    def _arranged(self, probe: Packed, rows: np.ndarray, shape: int) -> Packed:
        """Return what a unit takes for these probes; the first one fills it up."""
        filled = np.concatenate([rows, np.full(shape - len(rows), rows[0])])
        slots = np.repeat(filled[:, None], 4, 1).astype(np.int32)
        slots[len(rows) :, 1::2] = self._beyond
        given = None if probe.given is None else probe.given[filled]
        return Packed(slots, probe.integers[filled], probe.numbers[filled], given)

    def _probe(self, lane: Lane) -> Packed:
        count, draws = 2 * self._batch, self._draws
        integers = np.zeros((count, len(INTEGERS)), np.int32)
        numbers = np.zeros((count, len(NUMBERS)), np.float32)
        given = None
        if lane.kind == TEXT:
            text = self._description.t5
            vocab = text.model.get("vocab", 32_128)
            given = draws.integers(0, vocab, (count, text.length)).astype(np.int32)
        else:
            stage = self._description.stages[lane.stage]
            times, levels = table(stage_key(stage), stage.steps, 1.0)
            at = draws.integers(0, len(times), count)
            integers[:, :2], integers[:, 2] = times[at], at
            integers[:, 3] = draws.integers(-(2**31), 2**31, count)
            integers[:, 4] = lane.stage == "relay"
            numbers[:, :4], numbers[:, 4] = levels[at], draws.choice([0.0, 0.5, 1.0], count)
            numbers[:, 5] = stage.guidance
        if lane.kind == START and lane.stage == "relay":
            shape = (count, *lane.size.divided(2), 3)
            given = draws.integers(0, 256, shape, np.uint8)
        return Packed(np.zeros((count, 4), np.int32), integers, numbers, given)


def _merged(found: Sequence[dict[int, bytes]]) -> dict[int, bytes]:
    return {probe: bits for each in found for probe, bits in each.items()}


def _agree(reference: dict[int, bytes], found: dict[int, bytes]) -> bool:
    return all(reference[probe] == bits for probe, bits in found.items())


def _fingerprint(arrays: Any, slots: jax.Array, axis: int) -> jax.Array:
    """Return two hashes, uint32 [slots, 2], of the bits that a pool's arrays have in each slot."""
    total = jnp.zeros((len(slots), 2), jnp.uint32)
    for number, x in enumerate(jax.tree.leaves(arrays)):
        rows = jnp.moveaxis(jnp.take(x, slots, axis), axis, 0).reshape(len(slots), -1)
        width = {2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(rows, width).astype(jnp.uint32)
        place = jnp.arange(bits.shape[1], dtype=jnp.uint32) * jnp.uint32(2_654_435_761)
        for part in range(2):
            salt = np.uint32(0x9E3779B9 * (2 * number + part + 1) % 2**32)
            hashed = _mixed(_mixed(bits ^ salt) + place)
            total = total.at[:, part].add(hashed.sum(1, dtype=jnp.uint32))
    return total


def _mixed(x: jax.Array) -> jax.Array:
    """Return x uint32 with its bits mixed, as MurmurHash ends."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
