"""The engine with a store that draws nothing: it checks whose slots each unit reads and writes."""

import random
import types

import numpy as np
import random_cascades as rc

from cv3jax.serving.engine.estimates import Estimates
from cv3jax.serving.engine.lanes import DECODE, START, STEP, TEXT, Lane, Place
from cv3jax.serving.engine.offer import Offer
from cv3jax.serving.engine.programs import READ, READ_TEXT, WRITE, WRITE_TEXT
from cv3jax.serving.engine.queue import Queue
from cv3jax.serving.engine.unit_engine import UnitEngine

CHAINS = [rc.chain(16, 32), rc.chain(16), rc.chain(16, 32, 64)]
SEED = 3  # its column of `Packed.integers`
NOBODY = -1


class HollowStore:
    """Pools of numbers: which seed wrote each slot. A row's tokens begin with its seed.

    fails: the share of units that fail. Half of these take pools along.
    """

    def __init__(self, offer: Offer, slots: int, texts: int, fails: float, seed: int):
        self.count, self.wrong, self.units = slots, [], 0
        self._pools = {place: np.full(slots, NOBODY, np.int64) for place in offer.places}
        self._texts = np.full(texts, NOBODY, np.int64)
        self._gone, self._text_gone = [], False
        self._fails, self._random = fails, random.Random(seed)

    def run(self, lane: Lane, compiled, packed, loras=()):
        self.units += 1
        if self._random.random() < self._fails:
            if self._random.random() < 0.5:
                self._lose(lane)
            raise RuntimeError("RESOURCE_EXHAUSTED: of the test")
        seeds = packed.integers[:, SEED].view(np.uint32).astype(np.int64)
        if lane.kind == TEXT:
            where = packed.slots[:, WRITE_TEXT]
            fine = where < len(self._texts)
            self._texts[where[fine]] = packed.given[fine, 0]
            return ()
        pool = self._pools[Place(lane.stage, lane.size)]
        slots, shape = packed.slots, (*lane.size, 3)
        if lane.kind == START:
            fine = slots[:, WRITE] < self.count
            pool[slots[fine, WRITE]] = seeds[fine]
            return ()
        if (pool[slots[:, READ]] != seeds).any():
            self.wrong.append((lane, "latents", pool[slots[:, READ]], seeds))
        if lane.kind == STEP and (self._texts[slots[:, READ_TEXT]] != seeds).any():
            self.wrong.append((lane, "texts", self._texts[slots[:, READ_TEXT]], seeds))
        if lane.kind == DECODE:
            return (np.zeros((len(seeds), *shape), np.uint8),)
        return (np.zeros((len(seeds), 1, 1, 3), np.uint8),)

    def merge(self, lane: Lane, loras) -> None:
        pass

    def merging(self, *sets) -> float:
        return 0.0

    def written(self, lane: Lane) -> dict:
        return {}

    def lost(self):
        return list(self._gone), self._text_gone

    def repair(self) -> None:
        self._gone, self._text_gone = [], False

    def _lose(self, lane: Lane) -> None:
        if lane.kind == TEXT:
            self._texts[:], self._text_gone = NOBODY, True
            return
        place = Place(lane.stage, lane.size)
        self._pools[place][:] = NOBODY
        self._gone = [place]


def hollow(batch: int, slots: int, texts: int, fails: float = 0.0, seed: int = 0) -> UnitEngine:
    """Return the engine; its store is `engine._store`. The prompt of an order is its seed."""
    offer = Offer(rc.description(), CHAINS)
    estimates, programs = Estimates(), {}
    for lane in offer.lanes:
        for shape in (batch, batch // 2):
            estimates.measured(lane, shape, 1e-5 * shape)
            programs[lane, shape] = types.SimpleNamespace(run=None)
    queue = Queue(offer.lanes, batch, slots, texts)
    store = HollowStore(offer, slots, texts, fails, seed)

    def tokenize(prompts: list[str]) -> np.ndarray:
        return np.asarray([[int(prompt)] for prompt in prompts])

    return UnitEngine(offer, store, queue, programs, estimates, tokenize, {"batch": batch})
