"""Test ratings: planted strengths are found, ties count, and what has no rating is said."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from cv3jax.evaluation.statistics import bradley_terry as ratings

TRUTH, TIES = np.array([300.0, 100.0, 0.0, -150.0, -250.0]), 0.6


def votes(count, *, ties=TIES, prompts=200, raters=10):
    """Return pairs, scores, prompts and raters of votes on five models of known ratings."""
    rng = np.random.default_rng(0)
    pairs = np.array([rng.permutation(5)[:2] for _ in range(count)])
    a, b = np.exp(TRUTH / ratings.SCALE)[pairs].T
    tie = ties * np.sqrt(a * b)
    at = rng.random(count) * (a + b + tie)
    scores = np.where(at < a, 1.0, np.where(at < a + tie, 0.5, 0.0))
    return pairs, scores, rng.integers(prompts, size=count), rng.integers(raters, size=count)


@pytest.mark.parametrize("ties", [TIES, 0.0])
def test_planted_strengths_are_found(ties):
    found = ratings.rate("abcde", *votes(40_000, ties=ties), draws=50)
    assert [row.model for row in found.rows] == list("abcde")
    assert [row.rating for row in found.rows] == pytest.approx(list(TRUTH), abs=10)
    assert found.ties == pytest.approx(ties, abs=0.03)
    assert sum(row.rating for row in found.rows) == pytest.approx(0, abs=1e-6)


def test_two_models_have_the_rating_of_their_odds():
    """30 wins, 10 losses: log odds of 3; no tie."""
    scores = np.repeat([1.0, 0.0], [30, 10])
    found = ratings.rate("ab", np.tile([1, 0], (40, 1)), scores, np.arange(40))
    assert [row.model for row in found.rows] == ["b", "a"]
    first, second = (row.rating for row in found.rows)
    assert first - second == pytest.approx(400 * np.log10(3), abs=1e-3)
    assert ratings.expected_score(first - second, 0.0) == pytest.approx(0.75)


def test_the_expected_score_is_the_win_rate_with_ties():
    scores = np.repeat([1.0, 0.5, 0.0], [50, 30, 20])
    found = ratings.rate("ab", np.tile([0, 1], (100, 1)), scores, np.arange(100))
    difference = found.rows[0].rating - found.rows[1].rating
    assert ratings.expected_score(difference, found.ties) == pytest.approx(0.65, abs=1e-6)


def test_the_order_within_a_pair_does_not_matter():
    pairs, scores, prompts, raters = votes(500)
    turned = np.arange(500) % 2 == 0
    again = np.where(turned[:, None], pairs[:, ::-1], pairs)
    both = [
        ratings.rate("abcde", one, each, prompts, raters)
        for one, each in ((pairs, scores), (again, np.where(turned, 1 - scores, scores)))
    ]
    assert [row[:4] for row in both[0].rows] == [row[:4] for row in both[1].rows]


def test_the_maximum_of_the_likelihood_is_found():
    """A step in any direction is worse."""
    pairs, scores, prompts, _ = votes(300)
    found = ratings.rate("abcde", pairs, scores, prompts, draws=2)
    at = {row.model: row.rating / ratings.SCALE for row in found.rows}
    best = np.array([at[name] for name in "abcde"] + [np.log(found.ties)])

    def likelihood(where):
        a, b = where[pairs].T
        logits = np.stack([b, where[5] + (a + b) / 2, a], 1)
        chosen = np.take_along_axis(logits, (2 * scores).astype(int)[:, None], 1)[:, 0]
        return (chosen - np.log(np.exp(logits).sum(1))).sum()

    for axis, step in itertools.product(range(6), (-0.01, 0.01)):
        assert likelihood(best + step * np.eye(6)[axis]) < likelihood(best)


def test_prompts_and_raters_widen_the_intervals():
    def width(scores, prompts, raters=None):
        found = ratings.rate("abcde", pairs, scores, prompts, raters)
        return np.mean([row.high - row.low for row in found.rows])

    pairs, scores = (np.repeat(one, 10, 0) for one in votes(60)[:2])  # alike on a prompt
    prompts, raters = np.arange(600) // 10, np.arange(600) % 6
    assert width(scores, prompts) > 2 * width(scores, np.arange(600))
    # half of the raters always take the model whose letter comes first
    leaning = np.where(raters < 3, scores, pairs[:, 0] < pairs[:, 1])
    assert width(leaning, prompts, raters) > 1.1 * width(leaning, prompts)


def test_a_model_that_only_wins_has_no_rating():
    pairs, scores, prompts, _ = votes(200)
    scores = np.where((pairs == 0).any(1), (pairs[:, 0] == 0).astype(float), scores)
    with pytest.raises(ratings.UnratedError, match="a won all or none of the votes"):
        ratings.rate("abcde", pairs, scores, prompts)
    kept = (pairs != 4).all(1)
    with pytest.raises(ratings.UnratedError, match=r"e won .* or had none"):
        ratings.rate("abcde", pairs[kept], votes(200)[1][kept], prompts[kept])


def test_one_prompt_has_no_interval():
    found = ratings.rate("ab", np.tile([0, 1], (4, 1)), np.array([1, 0, 1, 1.0]), np.zeros(4))
    assert found.rows[0].low is None
    assert found.rows[0].votes == 4


def test_ratings_of_a_small_tournament_are_held_by_their_intervals(monkeypatch):
    """Of 4 × 40 intervals of 95 %, as many as chance allows."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    import eval_statistics

    (row,) = eval_statistics.ratings(40, ((40, 8),))
    assert 0.86 < row["coverage"] <= 1.0
    assert row["error"] < 40
    del sys.modules["eval_statistics"]
