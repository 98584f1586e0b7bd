"""A row: one order on its way through the lanes, and the numbers that each of its units takes."""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from cv3jax.cascade.limits import untrained
from cv3jax.cascade.sizes import Size
from cv3jax.cascade.stage_sampler import stage_grid
from cv3jax.checkpoints.description import CascadeDescription, StageDescription
from cv3jax.serving.engine.lanes import DECODE, READS_TEXT, START, STEP, Lane, Place
from cv3jax.serving.orders import Choice, Listener, Order
from data_pipeline.io.errors import InputError, counted

# the columns of `Leg.integers` and `Leg.numbers`, in the order of `programs.Batch`
INTEGERS = ("t", "s", "number", "seed", "relay_pass")
NUMBERS = ("sigma_t", "sigma_s", "b_t", "b_s", "eta", "w")


class Leg(NamedTuple):
    """Units of one lane that a row takes one after the other."""

    lane: Lane
    relay_pass: int  # 0 for the base, and from 1 for relay passes
    integers: np.ndarray  # int32 [units, INTEGERS]; a seed is the same 32 bits
    numbers: np.ndarray  # float32 [units, NUMBERS]

    @property
    def units(self) -> int:
        """The number of units."""
        return len(self.integers)


@dataclasses.dataclass(eq=False)  # a row is itself alone
class Row:
    """An order in the engine: where it is, what it holds, and how urgent it is."""

    order: Order
    listener: Listener
    tokens: np.ndarray  # int [L]
    legs: list[Leg]
    number: int = 0  # counts orders as they came
    deadline: float = 0.0  # on the engine's clock
    patience: float = 0.0  # seconds for which units of other lanes may still go before its own
    cost: float = 0.0  # seconds of device time of all its units, in full batches
    image: np.ndarray | None = None  # what the next relay pass enlarges
    at: int = 0  # the leg
    done: int = 0  # units of that leg
    slot: int | None = None  # in the pool of its place
    text: int | None = None  # where its text's keys and values are
    under_way: bool = False  # whether it was in a unit already
    cancelled: bool = False

    @property
    def urgency(self) -> tuple[float, int]:
        """What rows are sorted by: the deadline, then the order in which they came."""
        return self.deadline, self.number

    @property
    def leg(self) -> Leg:
        """The leg that the row is at."""
        return self.legs[self.at]

    @property
    def lane(self) -> Lane:
        """The lane of the row's next unit. A row without its text reads it first."""
        return READS_TEXT if self.text is None else self.leg.lane

    @property
    def place(self) -> Place:
        """The place that the row is at, or comes to next."""
        return Place(self.leg.lane.stage, self.leg.lane.size)

    def left(self) -> list[tuple[Lane, int]]:
        """Return the lanes that the row still passes, with the units in each."""
        lanes = [] if self.text is not None else [(READS_TEXT, 1)]
        lanes.append((self.leg.lane, self.leg.units - self.done))
        return lanes + [(leg.lane, leg.units) for leg in self.legs[self.at + 1 :]]

    def restart(self) -> None:
        """Go back to the start of the stage; what the pool had of the row is lost."""
        while self.leg.lane.kind != START:
            self.at -= 1
        self.done, self.slot = 0, None


def legs_of(order: Order, description: CascadeDescription) -> list[Leg]:
    """Return the legs of an order.

    Raises InputError on a seed, steps, guidance, η or strength that a stage cannot be sampled with.
    """
    if not 0 <= order.seed < 2**32:
        raise InputError(f"seed {order.seed}: give a whole number in 0..{2**32 - 1}")
    legs = []
    for number, size in enumerate(order.sizes):
        if number == 0 and order.image is not None:
            continue
        stage = "relay" if number else "base"
        choice = order.relay if number else order.base
        legs += _legs_of_stage(order.seed, choice, number, size, description.stages[stage])
    return legs


def check_choice(name: str, stage: StageDescription, choice: Choice) -> None:
    """Raise InputError where a stage cannot be sampled so."""
    if problem := untrained(name, stage, choice.steps, choice.guidance, choice.strength):
        raise InputError(problem)
    if not 0.0 <= choice.eta <= 1.0:
        raise InputError(f"eta {choice.eta} for the {name} stage: give a value from 0 to 1")
    if not math.isfinite(choice.guidance):
        raise InputError(f"guidance {choice.guidance} for the {name} stage: give a number")
    try:
        if not 1 <= choice.steps <= stage.start:  # before a grid of any length is made
            raise ValueError
        table(stage_key(stage), choice.steps, choice.strength)
    except ValueError as e:
        raise InputError(
            f"{counted(choice.steps, 'step')} for the {name} stage, which starts at t ="
            f" {stage.start}: give 1..{stage.start} steps"
        ) from e


def _legs_of_stage(
    seed: int, choice: Choice, relay_pass: int, size: Size, stage: StageDescription
) -> list[Leg]:
    name = "relay" if relay_pass else "base"
    check_choice(name, stage, choice)
    times, levels = table(stage_key(stage), choice.steps, choice.strength)
    count = len(times)
    bits = np.uint32(seed).view(np.int32)
    integers = np.empty((count, len(INTEGERS)), np.int32)
    integers[:, :2], integers[:, 2] = times, np.arange(count)
    integers[:, 3], integers[:, 4] = bits, relay_pass
    numbers = np.empty((count, len(NUMBERS)), np.float32)
    numbers[:, :4], numbers[:, 4], numbers[:, 5] = levels, choice.eta, choice.guidance
    place = (name, size)
    first, last = slice(0, 1), slice(count - 1, count)
    return [
        Leg(Lane(START, *place), relay_pass, integers[first], numbers[first]),
        Leg(Lane(STEP, *place), relay_pass, integers, numbers),
        Leg(Lane(DECODE, *place), relay_pass, integers[last], numbers[last]),
    ]


class StageKey(NamedTuple):
    """What a stage's grids depend on."""

    kind: str
    start: int
    blur: str | None
    zero_snr: bool = False


def stage_key(stage: StageDescription) -> StageKey:
    """Return what the stage's grids depend on."""
    return StageKey(stage.kind, stage.start, stage.blur, stage.zero_snr)


@functools.lru_cache(maxsize=1024)
def table(stage: StageKey, steps: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (t and s int32 [n, 2], σ_t, σ_s, b_t and b_s float32 [n, 4]) of a stage's steps.

    Raises ValueError where the stage has no grid of so many steps.
    """
    grid = stage_grid(stage, steps, strength, array=np.asarray)
    times, sigma, blur = grid.t, grid.sigma, grid.blur
    levels = np.stack([sigma[:-1], sigma[1:], blur[:-1], blur[1:]], 1)
    return np.stack([times[:-1], times[1:]], 1), levels
