"""Test orders, sides and controls: drawn from the seed, and balanced."""

import dataclasses
import json

import pytest

from cv3jax.evaluation.people.study import APART, REPEATED, SWAPPED, TRIAL, Study
from data_pipeline.io.errors import InputError

STUDY = Study(("a", "b"), tuple(f"prompt {i}" for i in range(200)), 1, "00")


def test_an_order_is_the_same_again_and_of_each_rater_its_own():
    assert STUDY.order("ann") == STUDY.order("ann")
    assert [one.pair for one in STUDY.order("ann")] != [one.pair for one in STUDY.order("ben")]
    other = dataclasses.replace(STUDY, seed=1)
    assert [one.pair for one in STUDY.order("ann")] != [one.pair for one in other.order("ann")]
    again = Study.from_json(json.loads(json.dumps(STUDY.to_json())))
    assert again == STUDY
    assert again.order("ann") == STUDY.order("ann")


def test_every_pair_comes_once_besides_the_controls():
    pairs = [one.pair for one in STUDY.order("ann") if one.kind == TRIAL]
    assert sorted(pairs) == list(range(200))
    three = dataclasses.replace(STUDY, models=("a", "b", "c"), each=2)
    assert len(three.pairs) == 200 * 2 * 3
    assert {pair[2:] for pair in three.pairs} == {(0, 1), (0, 2), (1, 2)}


def test_sides_are_balanced_and_differ_by_rater():
    sides = {name: {one.pair: one.left for one in STUDY.order(name)} for name in ("ann", "ben")}
    for each in sides.values():
        assert 75 <= sum(each.values()) <= 125  # of 200 at even odds: ± 3.5 standard deviations
    agree = sum(sides["ann"][pair] == sides["ben"][pair] for pair in range(200))
    assert 75 <= agree <= 125


def test_controls_show_an_earlier_pair_as_it_was_or_exchanged():
    order = STUDY.order("ann")
    controls = [(place, one) for place, one in enumerate(order) if one.kind != TRIAL]
    assert len(controls) / len(order) == pytest.approx(0.1, abs=0.01)
    kinds = [one.kind for _, one in controls]
    assert abs(kinds.count(SWAPPED) - kinds.count(REPEATED)) <= 1
    for place, one in controls:
        before = order[one.before]
        assert before.kind == TRIAL
        assert place - one.before > APART - 1
        assert one.pair == before.pair
        sides = (before.left, before.right)
        assert (one.left, one.right) == (sides[::-1] if one.kind == SWAPPED else sides)
    # who stops early has some too
    assert sum(one.kind != TRIAL for one in order[:40]) in (3, 4)


def test_no_controls_and_a_limit():
    assert {one.kind for one in dataclasses.replace(STUDY, controls=0.0).order("ann")} == {TRIAL}
    assert STUDY.controlled == sum(one.kind != TRIAL for one in STUDY.order("ben")) == 22
    assert dataclasses.replace(STUDY, limit=8).controlled == 0  # too few pairs for one
    some = dataclasses.replace(STUDY, limit=20).order("ann")
    assert sum(one.kind == TRIAL for one in some) == 20
    assert some == STUDY.order("ann")[: len(some)]
    half = dataclasses.replace(STUDY, controls=0.5).order("ann")
    assert sum(one.kind != TRIAL for one in half) == 200 - APART


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"controls": 0.6}, "--controls 0.6"),
        ({"controls": float("nan")}, "--controls nan"),
        ({"limit": 0}, "--limit 0"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_what_no_study_can_have_is_refused(change, said):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(STUDY, **change).check()
