"""Find the numbers of rows at which a row's result is the same to the bit, whatever is beside it.

XLA may compute a row in another order where a batch has another number of rows. Of each lane, the
largest shape is the reference: its rows must not depend on their position, or on the other rows.
Smaller shapes are used where they give the same bits.
"""

import dataclasses
import statistics
import time
from typing import Any

import jax
import numpy as np

from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.serving.engine.compiling import Compiled, no_room
from cv3jax.serving.engine.fingerprint import fingerprint
from cv3jax.serving.engine.lanes import START, STEP, TEXT, Lane
from cv3jax.serving.engine.pool import Store
from cv3jax.serving.engine.programs import Packed
from cv3jax.serving.engine.rows import INTEGERS, NUMBERS, stage_key, table
from data_pipeline.io.errors import InputError

RUNS = 4  # of a smaller shape


@dataclasses.dataclass
class Found:
    """What probes show of a lane so far."""

    probe: Packed
    largest: Compiled
    reference: dict[int, bytes]  # the bits of each probe
    seconds: dict[int, float]  # of a unit, by its shape: those that give the same bits
    differs: int | None = None  # the first shape that does not


class Probes:
    """Rows with random contents, twice as many as a batch has, in as many slots of the pools."""

    def __init__(self, description: CascadeDescription, store: Store, batch: int, seed: int = 0):
        """Start the random numbers; `batch` is the largest shape."""
        self._description, self._store, self._batch = description, store, batch
        self._draws = np.random.default_rng(seed)
        self._fingerprint = jax.jit(fingerprint, static_argnums=1)
        self.found: dict[Lane, Found] = {}

    def check(self, program: Compiled) -> bool:
        """Return whether a program may be used: whether each row has the bits of its lane.

        The programs of the largest shape come first, in the order in which a row passes their
        lanes: each leaves in the pools what the next one reads.

        Raises:
            InputError: rows of the largest shape depend on each other.
            NoRoomError: the devices have too little memory.
        """
        lane, shape = program.lane, program.shape
        with no_room(f"units of {shape} rows of {lane}"):
            if shape == self._batch:
                probe = self._probe(lane)
                took, bits = self._runs(program, probe)
                self.found[lane] = Found(probe, program, bits[0] | bits[1], {})
            else:
                took, bits = self._runs(program, self.found[lane].probe)
            found = self.found[lane]
            if all(found.reference[row] == own for each in bits for row, own in each.items()):
                found.seconds[shape] = took
                return True
            found.differs = shape
            if shape < self._batch:  # the pools get the bits back that others are to read
                self._runs(found.largest, found.probe)
                return False
        raise InputError(
            f"{lane} with {shape} rows: a row's result depends on those beside it, and so would a"
            " picture; give another --batch or --attention"
        )

    def _runs(self, program: Compiled, probe: Packed) -> tuple[float, list[dict[int, bytes]]]:
        """Return (the seconds of a unit, the bits that each run gives its probes).

        The first two runs of the largest shape have all probes in order.
        """
        lane, shape, store = program.lane, program.shape, self._store
        everyone = np.arange(2 * self._batch)
        mixed = self._draws.permutation(everyone)
        if shape == self._batch:
            runs = [everyone[:shape], everyone[shape:], mixed[:shape], mixed[shape:]]
            runs.append(mixed[:shape][::-1])
        else:
            runs = [self._draws.permutation(everyone)[:shape] for _ in range(RUNS)]
        runs.append(mixed[:1])  # and all others are filling
        before = jax.tree.map(np.asarray, store.written(lane)) if lane.kind == STEP else {}
        seconds, found = [], []
        for rows in runs:
            store.overwrite(lane, before)
            packed = self._arranged(probe, rows, shape)
            began = time.monotonic()
            made = store.run(lane, program.run, packed)
            jax.block_until_ready((made, store.written(lane)))
            seconds.append(time.monotonic() - began)
            found.append(self._bits(lane, made, rows))
        store.overwrite(lane, before)
        return statistics.median(seconds[1:]), found

    def _bits(self, lane: Lane, made: Any, rows: np.ndarray) -> dict[int, bytes]:
        """Return the bits of what a unit made of each probe, with a fingerprint of the pools'."""
        written = self._store.written(lane)
        marks = np.zeros((2 * self._batch, 0), np.uint32)
        if written:
            marks = np.asarray(self._fingerprint(written, int(lane.kind == TEXT)))
        values = [np.asarray(each) for each in jax.tree.leaves(made)]
        return {
            int(row): b"".join([marks[row].tobytes(), *(each[i].tobytes() for each in values)])
            for i, row in enumerate(rows)
        }

    def _arranged(self, probe: Packed, rows: np.ndarray, shape: int) -> Packed:
        """Return what a unit takes for these probes; the first one fills it up."""
        filled = np.concatenate([rows, np.full(shape - len(rows), rows[0])])
        slots = np.repeat(filled[:, None], 4, 1).astype(np.int32)
        slots[len(rows) :, 1::2] = self._store.count
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
