"""Test which rows go next, on a clock that counts units."""

import dataclasses

import numpy as np
import pytest

from cv3jax.cascade.sizes import Size
from cv3jax.serving.engine.lanes import STEP, Lane
from cv3jax.serving.engine.schedule import admitted, choose

SMALL, LARGE = (Lane(STEP, "base", Size(side, side)) for side in (64, 128))
BATCH = 4


@dataclasses.dataclass(eq=False)
class Job:
    """A row of `steps` units of one lane, and what it takes with nobody else."""

    lane: Lane
    steps: int
    arrival: float
    number: int
    slack: float = 8.0
    share: float = 1.0  # patience, in its own seconds
    done: int = 0
    end: float = 0.0
    alone: float = 0.0
    patience: float = 0.0
    patience_at_first: float = 0.0

    def __post_init__(self):
        self.alone = self.steps * seconds(self.lane)
        self.patience = self.patience_at_first = self.share * self.alone

    @property
    def urgency(self):
        return self.arrival + self.slack * self.alone, self.number

    @property
    def latency(self):
        return self.end - self.arrival


def seconds(lane: Lane, rows: int = BATCH) -> float:
    """Return the same seconds for any number of rows: a whole batch costs what one row does."""
    return {SMALL: 1.0, LARGE: 4.0}[lane]


def linear(lane: Lane, rows: int) -> float:
    """Return the seconds of a device on which two halves of a batch cost what the whole does."""
    return seconds(lane) * (1.0 if rows > BATCH // 2 else 0.5)


def simulate(jobs: list[Job]) -> list[tuple[float, Lane, int]]:
    """Draw the jobs. Returns (begin, lane, rows) of each unit."""
    now, left, units = 0.0, list(jobs), []
    while left:
        here = sorted((job for job in left if job.arrival <= now), key=lambda job: job.urgency)
        ready = {lane: [job for job in here if job.lane == lane] for lane in (LARGE, SMALL)}
        unit = choose(ready, BATCH, seconds)
        if unit is None:
            now = min(job.arrival for job in left)
            continue
        units.append((now, unit.lane, len(unit.rows)))
        now += seconds(unit.lane)
        for job in unit.rows:
            job.done += 1
            job.end = now
        left = [job for job in left if job.done < job.steps]
    return units


def poisson(lane, steps, rate, count, seed, **more) -> list[Job]:
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))
    return [Job(lane, steps, float(at), n, **more) for n, at in enumerate(arrivals)]


def p95(jobs) -> float:
    return float(np.percentile([job.latency for job in jobs], 95))


def test_nothing_is_chosen_of_nothing():
    assert choose({}, BATCH, seconds) is None
    assert choose({SMALL: []}, BATCH, seconds) is None


def test_the_most_urgent_row_decides_the_lane_and_its_lane_comes_with_it():
    late, soon, next_one = Job(SMALL, 8, 0, 0), Job(LARGE, 1, 0, 1), Job(LARGE, 3, 0, 2)
    unit = choose({SMALL: [late], LARGE: [soon, next_one]}, BATCH, seconds)
    assert (unit.lane, unit.rows) == (LARGE, [soon, next_one])


def test_a_unit_has_no_more_rows_than_a_batch_and_these_are_the_most_urgent():
    jobs = [Job(SMALL, 1, float(at), at) for at in range(6)]
    assert choose({SMALL: jobs}, BATCH, seconds).rows == jobs[:4]


def test_of_equal_deadlines_the_first_comes_first():
    jobs = [Job(SMALL, 2, 0.0, 1), Job(LARGE, 2, -48.0, 0)]
    assert jobs[0].urgency[0] == jobs[1].urgency[0]
    assert choose({SMALL: jobs[:1], LARGE: jobs[1:]}, BATCH, seconds).lane == LARGE


def test_a_small_unit_lets_full_ones_go_first_as_long_as_its_patience_lasts():
    small = Job(SMALL, 5, 0.0, 0)  # 5 s of patience
    full = [Job(LARGE, 9, 0.0, n) for n in range(1, 5)]
    lanes = [choose({SMALL: [small], LARGE: full}, BATCH, seconds).lane for _ in range(4)]
    assert lanes == [LARGE, LARGE, SMALL, SMALL]  # full ones take 4 s each
    assert small.patience == -3.0


def test_a_unit_of_half_a_batch_lets_none_go_first():
    small = [Job(SMALL, 5, 0.0, n) for n in (0, 1)]
    full = [Job(LARGE, 9, 0.0, n) for n in range(2, 6)]
    assert choose({SMALL: small, LARGE: full}, BATCH, seconds).lane == SMALL


def test_a_small_unit_does_not_wait_for_one_that_is_not_full():
    small, other = Job(SMALL, 1, 0.0, 0), [Job(LARGE, 9, 0.0, n) for n in range(1, 4)]
    assert choose({SMALL: [small], LARGE: other}, BATCH, seconds).lane == SMALL
    assert small.patience == 1.0


def test_a_unit_is_cut_to_half_a_batch_where_that_costs_nothing():
    jobs = [Job(SMALL, 5, 0.0, n) for n in range(8)]
    assert choose({SMALL: jobs[:3]}, BATCH, linear).rows == jobs[:2]
    assert choose({SMALL: jobs[:2]}, BATCH, linear).rows == jobs[:2]
    # a whole batch is quicker than its halves, or there are two batches of rows to keep full
    assert choose({SMALL: jobs[:3]}, BATCH, seconds).rows == jobs[:3]
    assert choose({SMALL: jobs[:3], LARGE: jobs[3:]}, BATCH, linear).rows == jobs[:3]
    assert choose({SMALL: jobs[:3], LARGE: jobs[4:]}, BATCH, linear).rows == jobs[:2]


@pytest.mark.parametrize("seed", range(5))
def test_short_orders_are_not_raised_by_long_ones(seed):
    alone = poisson(SMALL, 5, 0.1, 200, seed)
    simulate(alone)
    # beside as much device time of orders six times as long, at half of what the device can do
    short = poisson(SMALL, 5, 0.1, 200, seed)
    long = [
        dataclasses.replace(job, number=1000 + job.number)
        for job in poisson(SMALL, 30, 0.1 / 6, 34, seed + 100)
    ]
    simulate(short + long)
    assert p95(short) <= 1.5 * p95(alone)


@pytest.mark.parametrize("seed", range(5))
def test_a_small_size_is_not_held_up_by_a_large_one(seed):
    # an overload of large pictures, of which more and more wait
    large = poisson(LARGE, 8, 0.3, 60, seed)
    small = [
        dataclasses.replace(job, number=1000 + job.number)
        for job in poisson(SMALL, 4, 0.05, 12, seed + 50)
    ]
    simulate(large + small)
    assert max(job.latency for job in large) > 100
    # it waits for a unit that runs when it comes, for its own patience, and for its own units
    most = seconds(LARGE) + (small[0].patience_at_first + seconds(LARGE)) + small[0].alone
    assert max(job.latency for job in small) <= most


@pytest.mark.parametrize("seed", range(5))
def test_nothing_starves(seed):
    # short orders without end, more than the device can do, and one long order among the first
    short = poisson(SMALL, 2, 2.5, 1500, seed)
    long = Job(SMALL, 40, 1.0, 5000)
    simulate([*short, long])
    last = max(job.end for job in short)
    # nothing goes before it but what has an earlier deadline
    sooner = max(job.end for job in short if job.urgency < long.urgency)
    assert long.end <= sooner + long.alone + seconds(SMALL) < last


def test_batches_are_full_where_there_is_much_to_do():
    rng = np.random.default_rng(0)
    jobs = [
        Job((SMALL, LARGE)[rng.integers(2)], int(rng.integers(1, 9)), float(rng.uniform(0, 9)), n)
        for n in range(300)
    ]
    units = simulate(jobs)
    assert sum(rows for _, _, rows in units) / len(units) > 0.95 * BATCH


def test_slots_go_to_the_most_urgent():
    rows = [Job(SMALL, n, 0.0, n) for n in (1, 2, 3, 8)]
    holders = [Job(SMALL, n, 0.0, n) for n in (9, 4, 7)]
    assert admitted(rows, 4, holders) == rows
    # the holders with 9, 7 and 4 steps are less urgent than 1, 2 and 3, and none than 8
    assert admitted(rows, 0, holders) == rows[:3]
    assert admitted(rows, 1, holders) == rows[:3]
    assert admitted(rows[3:], 0, holders) == rows[3:]
    assert admitted(rows[3:], 0, holders[1:]) == []
