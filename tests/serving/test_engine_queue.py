"""Test what rows hold while they are under way, and what becomes of them when it is lost."""

import numpy as np
import pytest
import random_cascades as rc

from cv3jax.serving.engine.lanes import DECODE, READS_TEXT, START, STEP, TEXT, Place
from cv3jax.serving.engine.offer import Offer
from cv3jax.serving.engine.queue import Queue
from cv3jax.serving.engine.rows import Row

CHAINS = [rc.chain(16, 32)]
OFFER = Offer(rc.description(), CHAINS)


def row(number: int, deadline: float, **more) -> Row:
    order = rc.order(f"{number}", CHAINS[0], **more)
    return Row(order, lambda event: None, np.zeros(1), OFFER.legs(order), number, deadline)


def queue(rows, batch=2, slots=4, texts=2) -> Queue:
    made = Queue(OFFER.lanes, batch, slots, texts)
    for each in rows:
        made.add(each)
    return made


def advance(held: Queue, unit) -> None:
    """Do what the engine does with the rows of a unit that ran."""

    def change(one: Row) -> None:
        if unit.lane.kind == TEXT:
            return
        one.done += 1
        if unit.lane.kind == DECODE:
            held.release_slot(one)
        if one.done == one.leg.units and one.at < len(one.legs) - 1:
            one.at, one.done = one.at + 1, 0

    over = [one for one in unit.rows if unit.lane.kind == DECODE and one.at == len(one.legs) - 1]
    held.moved(unit, change)
    for one in over:
        held.remove(one)


def run(held: Queue, most: int = 1000) -> list:
    """Return the units until the queue is empty, with the rows' numbers."""
    units = []
    while (unit := held.take(lambda lane, rows: 1.0)) is not None and len(units) < most:
        units.append((unit.lane, [one.number for one in unit.rows]))
        advance(held, unit)
    return units


def test_a_row_passes_its_lanes_in_order():
    units = run(queue([row(0, 1.0)]))
    base, relay = (Place("base", CHAINS[0][0]), Place("relay", CHAINS[0][1]))
    expected = [(TEXT, "", None)]
    for place, steps in ((base, 4), (relay, 3)):
        expected += [(START, *place), *[(STEP, *place)] * steps, (DECODE, *place)]
    assert [tuple(lane) for lane, _ in units] == expected


def test_an_image_goes_to_the_relay_at_once():
    units = run(queue([row(0, 1.0, image=np.zeros((16, 16, 3), np.uint8))]))
    assert [lane.stage for lane, _ in units] == ["", *["relay"] * 5]


@pytest.mark.parametrize("seed", range(5))
def test_every_row_is_drawn_and_frees_what_it_held(seed):
    draws = np.random.default_rng(seed)
    held = queue([row(n, float(draws.uniform(0, 9))) for n in range(40)])
    units = run(held)
    assert len(held) == held.under_way == 0
    ended = [
        n for lane, rows in units if lane.kind == DECODE and lane.stage == "relay" for n in rows
    ]
    assert sorted(ended) == list(range(40))
    # all slots are free again: two rows can start, and hold different ones
    for n in (40, 41):
        held.add(row(n, 1.0))
    first = held.take(lambda lane, rows: 1.0)
    assert len({one.text for one in first.rows}) == 2


@pytest.mark.parametrize("seed", range(5))
def test_no_two_rows_hold_one_slot(seed):
    draws = np.random.default_rng(seed)
    held, number = queue([], slots=5, texts=3), 0
    for _ in range(300):
        if draws.random() < 0.5:
            held.add(row(number, float(draws.uniform(0, 9))))
            number += 1
        if draws.random() < 0.1 and len(held):
            held.remove(list(held)[draws.integers(len(held))])
        if draws.random() < 0.05:
            held.lost([Place("base", CHAINS[0][0])], texts=bool(draws.random() < 0.5))
        if (unit := held.take(lambda lane, rows: 1.0)) is not None:
            texts = [one.text for one in held if one.text is not None]
            slots = [(one.place, one.slot) for one in held if one.slot is not None]
            assert len(set(texts)) == len(texts) <= 3
            assert len(set(slots)) == len(slots)
            assert all(one.text is not None for one in unit.rows)
            assert held.under_way <= 5
            advance(held, unit)
    run(held)
    assert len(held) == 0


def test_a_late_row_gives_its_text_to_an_urgent_one_and_reads_it_again():
    late, urgent = [row(n, 100.0 + n) for n in range(2)], [row(n, float(n)) for n in (2, 3)]
    held = queue(late)
    for _ in range(3):
        advance(held, held.take(lambda lane, rows: 1.0))
    assert [(one.leg.lane.kind, one.done) for one in late] == [(STEP, 1)] * 2
    for one in urgent:
        held.add(one)
    units = run(held)
    assert units[0] == (READS_TEXT, [2, 3])
    again = units.index((READS_TEXT, [0, 1]))
    # they go on from their step: the one that they took is not taken again
    left = [rows for lane, rows in units[again:] if lane.kind == STEP and lane.stage == "base"]
    assert left == [[0, 1]] * 3


def test_a_row_waits_for_a_place_where_too_many_are_under_way():
    held = queue([row(n, float(n)) for n in range(3)], batch=4, slots=2, texts=4)
    assert [one.number for one in held.take(lambda lane, rows: 1.0).rows] == [0, 1]
    assert held.under_way == 2


def test_a_row_whose_latents_are_lost_starts_its_stage_again():
    one = row(0, 1.0)
    held = queue([one])
    for _ in range(10):  # two of the relay's steps are done
        advance(held, held.take(lambda lane, rows: 1.0))
    assert (one.leg.lane.stage, one.leg.lane.kind, one.done) == ("relay", STEP, 2)
    held.lost([one.place], texts=False)
    units = run(held)
    assert [lane.kind for lane, _ in units] == [START, STEP, STEP, STEP, DECODE]


def test_a_row_whose_text_is_lost_reads_it_again_and_goes_on():
    one = row(0, 1.0)
    held = queue([one])
    for _ in range(4):
        advance(held, held.take(lambda lane, rows: 1.0))
    held.lost([], texts=True)
    units = run(held)
    assert [lane.kind for lane, _ in units[:4]] == [TEXT, STEP, STEP, DECODE]
