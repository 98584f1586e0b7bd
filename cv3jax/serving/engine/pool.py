"""What the devices hold for the rows in the engine: pools of latents, and of texts."""

from typing import Any

import jax
import numpy as np

from cv3jax.cascade.memory import bytes_per_device
from cv3jax.cascade.pipeline import Cascade
from cv3jax.serving.engine.adapters import LoraSet, ParamSets
from cv3jax.serving.engine.lanes import START, STEP, TEXT, Lane, Place, lanes_of
from cv3jax.serving.engine.programs import Packed, Programs
from cv3jax.serving.engine.rows import INTEGERS, NUMBERS, Row

Arrays = dict[str, Any]


class Slots:
    """The numbers of slots that nobody holds."""

    def __init__(self, count: int):
        """Hold `count` free slots."""
        self.count, self._free = count, list(range(count - 1, -1, -1))

    @property
    def free(self) -> int:
        """How many are free."""
        return len(self._free)

    def take(self) -> int:
        """Return a slot, which is the caller's until `give`."""
        return self._free.pop()

    def give(self, slot: int) -> None:
        """Take a slot back."""
        self._free.append(slot)


class Store:
    """The pools of a cascade: of each place's latents, and of the keys and values of texts.

    slots: `count`, of each place's pool. texts: by stage, the shapes of all texts' keys and values,
    which have the slots as their second axis.
    """

    def __init__(
        self,
        cascade: Cascade,
        programs: Programs,
        places: list[Place],
        slots: int,
        texts: dict[str, Any],
        sets: ParamSets | None = None,
    ):
        """Put empty pools on the devices. sets: the parameters with adapters, if there are any."""
        self._sets = ParamSets(cascade, {}, 1) if sets is None else sets
        self._cascade, self._sharding = cascade, programs.pool_sharding
        self.programs = {lane: programs.of(lane) for lane in lanes_of(places)}
        self.count, self._text_shapes = slots, texts
        self.pools: dict[Place, Arrays] = {place: self._empty(place) for place in places}
        self.texts: Arrays = self._empty_texts()

    def arguments(self, lane: Lane, loras: LoraSet = ()) -> tuple[tuple, Arrays, Arrays]:
        """Return (params, the arrays that a lane's units write, those that they read).

        loras: the adapters in the parameters.
        """
        held, program = self._held(lane), self.programs[lane]
        params = tuple(self._sets.of(part, loras) for part in program.parts)
        changed = {name: held[name] for name in program.writes}
        return params, changed, {name: held[name] for name in program.reads}

    def run(self, lane: Lane, compiled: Any, packed: Packed, loras: LoraSet = ()) -> Any:
        """Run a unit and keep what it writes. Returns what it made, which may not be computed yet.

        compiled: the lane's program, for the shape of `packed`. loras: the adapters of all rows, in
        a lane that reads the stages' parameters.
        """
        changed, made = compiled(*self.arguments(lane, loras), packed)
        self._held_to_write(lane).update(changed)
        return made

    def merge(self, lane: Lane, loras: LoraSet) -> None:
        """Put adapters into the parameters that a lane reads where they are not, and wait."""
        self._sets.merge(self.programs[lane].parts, loras)

    def merging(self, *sets: LoraSet) -> float:
        """Return the seconds that merging takes before these sets of adapters can draw."""
        return self._sets.missing(*sets)

    def overwrite(self, lane: Lane, arrays: dict[str, np.ndarray]) -> None:
        """Replace arrays that a lane's units write by these."""
        self._held_to_write(lane).update(
            {name: self._put(name, value) for name, value in arrays.items()}
        )

    def written(self, lane: Lane) -> Arrays:
        """Return the arrays that a lane's units write."""
        return self.arguments(lane)[1]

    def lost(self) -> tuple[list[Place], bool]:
        """Return (the places whose pools a failed unit has consumed, whether it did the texts)."""
        return [place for place, arrays in self.pools.items() if _gone(arrays)], _gone(self.texts)

    def repair(self) -> None:
        """Replace consumed pools by empty ones."""
        places, texts = self.lost()
        for place in places:
            self.pools[place] = self._empty(place)
        if texts:
            self.texts = self._empty_texts()

    def nbytes(self) -> int:
        """Return the bytes of all pools on a device."""
        return bytes_per_device((list(self.pools.values()), self.texts))

    def _put(self, name: str, value: np.ndarray) -> jax.Array:
        return jax.device_put(value, self._sharding(name))

    def _held_to_write(self, lane: Lane) -> Arrays:
        return self.texts if lane.kind == TEXT else self.pools[Place(lane.stage, lane.size)]

    def _held(self, lane: Lane) -> Arrays:
        pool = self._held_to_write(lane)
        return {**pool, **self.texts} if lane.kind == STEP else pool

    def _empty(self, place: Place) -> Arrays:
        shape = (self.count, *self._cascade.latent(place.size))
        names = ("x", "m", "low") if place.stage == "relay" else ("x", "m")
        return {name: self._put(name, np.zeros(shape, np.float32)) for name in names}

    def _empty_texts(self) -> Arrays:
        return {
            stage: jax.tree.map(
                lambda like, stage=stage: self._put(stage, np.zeros(like.shape, like.dtype)), shapes
            )
            for stage, shapes in self._text_shapes.items()
        }


def _gone(tree: Any) -> bool:
    return any(x.is_deleted() for x in jax.tree.leaves(tree))


def pack(rows: list[Row], shape: int, lane: Lane, beyond: int) -> Packed:
    """Return what a unit of `shape` rows takes for these, which hold their slots.

    The first row fills the batch up, with results that are dropped. beyond: a slot after the last
    one of any pool.
    """
    filling = shape - len(rows)
    slots = np.full((shape, 4), beyond, np.int32)
    integers = np.empty((shape, len(INTEGERS)), np.int32)
    numbers = np.empty((shape, len(NUMBERS)), np.float32)
    for i, row in enumerate(rows):
        leg, unit = row.leg, row.done
        slots[i] = (row.slot or 0, beyond if row.slot is None else row.slot, row.text, row.text)
        integers[i], numbers[i] = leg.integers[unit], leg.numbers[unit]
    if filling:
        integers[len(rows) :], numbers[len(rows) :] = integers[0], numbers[0]
        slots[len(rows) :, ::2] = slots[0, ::2]
    return Packed(slots, integers, numbers, _given(rows, filling, lane))


def _given(rows: list[Row], filling: int, lane: Lane) -> np.ndarray | None:
    if lane.kind == TEXT:
        values = [row.tokens for row in rows]
    elif lane.kind == START and lane.stage == "relay":
        values = [row.image for row in rows]
    else:
        return None
    return np.stack(values + [values[0]] * filling)
