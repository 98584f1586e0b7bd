"""Test the engine under load with cancels and failures: every order ends once, no slot is lost."""

import random
import threading

import hollow_engine
import numpy as np
import pytest
import random_cascades as rc
from test_engine_queue import advance

from cv3jax.serving.engine.estimates import Estimates
from cv3jax.serving.engine.offer import Offer, units_of
from cv3jax.serving.engine.queue import Queue
from cv3jax.serving.engine.rows import Row
from cv3jax.serving.engine.unit_engine import SLACK
from cv3jax.serving.orders import Choice, Drawn, Ended

OFFER = Offer(rc.description(), hollow_engine.CHAINS)
CLIENTS, ORDERS = 4, 120


def order(number: int, draws: random.Random):
    sizes = draws.choice(hollow_engine.CHAINS)
    base, relay = (Choice(draws.randint(1, 8), 3.0) for _ in range(2))
    image = None
    if len(sizes) > 1 and draws.random() < 0.3:
        image = np.zeros((*sizes[0], 3), np.uint8)
    more = {"base": base, "relay": relay, "image": image, "previews": draws.random() < 0.2}
    return rc.order(f"{number}", sizes, number, prompt=f"{number}", **more)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("slots", "texts"), [(32, 8), (6, 4), (4, 4)])
def test_every_order_ends_once_whatever_happens(seed, slots, texts):
    """Clients submit and cancel at once, units fail, pools are lost, and slots are short."""
    engine = hollow_engine.hollow(4, slots, texts, fails=0.02, seed=seed)
    heard = [rc.Heard() for _ in range(CLIENTS * ORDERS)]
    cancelled = [False] * len(heard)

    def client(first: int) -> None:
        draws = random.Random(seed * 100 + first)
        mine = range(first, len(heard), CLIENTS)
        for at, number in enumerate(mine):
            engine.submit(order(number, draws), heard[number])
            if draws.random() < 0.2:
                other = mine[draws.randrange(at + 1)]
                cancelled[other] |= engine.cancel(f"{other}")

    threads = [threading.Thread(target=client, args=(first,)) for first in range(CLIENTS)]
    engine.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ends = [listener.last for listener in heard]
    assert engine.stop(60.0) == 0
    for listener, end, gone in zip(heard, ends, cancelled, strict=True):
        over = [isinstance(e, Ended) or (isinstance(e, Drawn) and e.last) for e in listener.events]
        assert over == [False] * (len(over) - 1) + [True]
        assert not gone or isinstance(end, Ended)  # who is told that it is cancelled gets nothing
    assert sum(isinstance(end, Drawn) for end in ends) > len(ends) / 4
    assert any(isinstance(end, Ended) and end.cancelled for end in ends)
    assert any(isinstance(end, Ended) and not end.cancelled for end in ends)
    # each unit read what its own rows had written
    assert engine._store.wrong == []
    queue = engine._queue
    assert queue.under_way == 0
    assert not any(queue.waiting().values())
    assert queue._texts.free == texts
    assert {each.free for each in queue._slots.values()} == {slots}


def test_the_prompt_of_several_pictures_is_tokenized_once():
    engine, asked = hollow_engine.hollow(4, 8, 8), []
    tokenize = engine._tokenize
    engine._tokenize = lambda prompts: asked.append(prompts) or tokenize(prompts)
    engine.start()
    for number, prompt in enumerate(["7", "7", "8", "7"]):
        seed = int(prompt)
        rc.drawn(engine, rc.order(f"{number}", hollow_engine.CHAINS[0], seed, prompt=prompt))
    assert asked == [["7"], ["8"], ["7"]]
    assert engine._store.wrong == []
    engine.stop(0.0)


def simulate(arrivals, seconds, batch=8, slots=64, texts=16) -> dict[int, float]:
    """Draw orders, (arrival, order) in order, on a virtual clock. Returns the end of each row.

    seconds: of a unit with so many rows, of each lane.
    """
    estimates, ends, now, left = Estimates(), {}, 0.0, list(arrivals)[::-1]
    for lane in OFFER.lanes:
        for shape in (batch // 4, batch // 2, batch):
            estimates.measured(lane, shape, seconds(shape))
    held = Queue(OFFER.lanes, batch, slots, texts)
    while left or len(held):
        while left and left[-1][0] <= now:
            at, one = left.pop()
            legs = OFFER.legs(one)
            row = Row(one, None, np.zeros(1), legs, number=int(one.id))
            row.deadline = at + SLACK * estimates.alone(row.left())
            row.patience = estimates.alone(row.left(), batch)
            held.add(row)
        unit = held.take(estimates.unit)
        if unit is None:
            now = left[-1][0]
            continue
        now += estimates.unit(unit.lane, len(unit.rows))
        advance(held, unit)
        ends |= {row.number: now for row in unit.rows if row.order.id not in held.rows}
    return ends


def mixture(rate: float, count: int, seed: int, longs: float = 0.25):
    """Return arrivals at random of orders of 4 + 1 steps, and of 20 + 10."""
    draws, found, now = np.random.default_rng(seed), [], 0.0
    for number in range(count):
        now += draws.exponential(1 / rate)
        base, relay = (20, 10) if draws.random() < longs else (4, 1)
        steps = {"base": Choice(base, 3.0), "relay": Choice(relay, 3.0)}
        found.append((now, rc.order(f"{number}", rc.chain(16, 32), number, **steps)))
    return found


def alone(one, seconds) -> float:
    return sum(count for _, count in units_of(OFFER.legs(one))) * seconds(2)


def linear(shape: int) -> float:
    """Return the seconds of a unit on a device on which rows cost the same in any batch."""
    return shape / 8


def flat(shape: int) -> float:
    """Return the seconds of a unit on a device on which a batch costs what a row does."""
    return 1.0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("seconds", [linear, flat])
def test_at_half_load_every_order_meets_its_deadline(seed, seconds):
    arrivals = mixture(0.5 * 8 / (0.75 * 10 + 0.25 * 35), 400, seed)
    ends = simulate(arrivals, seconds)
    late = {
        one.id: (ends[int(one.id)] - at) / alone(one, seconds)
        for at, one in arrivals
        if ends[int(one.id)] - at > SLACK * alone(one, seconds) + seconds(8)
    }
    assert late == {}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("seconds", [linear, flat])
@pytest.mark.parametrize(("slots", "texts"), [(64, 16), (12, 8)])
def test_in_an_overload_none_is_overtaken_by_those_of_much_later_deadlines(
    seed, seconds, slots, texts
):
    """More is asked than can be drawn, and few rows can be under way: none starves."""
    arrivals = mixture(1.5 * 8 / (0.75 * 10 + 0.25 * 35), 600, seed)
    ends = simulate(arrivals, seconds, slots=slots, texts=texts)
    assert len(ends) == len(arrivals)
    deadlines = {int(one.id): at + SLACK * alone(one, seconds) for at, one in arrivals}
    much = SLACK * max(alone(one, seconds) for _, one in arrivals)
    latest = -np.inf
    for number in sorted(ends, key=ends.get):
        assert latest <= deadlines[number] + much
        latest = max(latest, deadlines[number])
