"""Test win rates: how votes count, and that prompts and raters widen the intervals."""

import numpy as np
import pytest

from cv3jax.evaluation.statistics.win_rates import win_rate


def crossed(scores):
    """Return votes [prompts, raters] as scores, prompts and raters."""
    prompts, raters = np.indices(scores.shape)
    return scores.ravel(), prompts.ravel(), raters.ravel()


def test_a_tie_is_half_a_win():
    found = win_rate(np.array([1, 1, 0.5, 0]), np.arange(4), np.array([0, 1, 0, 1]))
    assert found[:4] == (2, 1, 1, 0.625)
    assert found.these.value == found.any.value == 0.625


def test_equal_raters_add_nothing_and_apart_ones_widen():
    rng = np.random.default_rng(0)
    one = (rng.random(60) < 0.6).astype(float)
    same = win_rate(*crossed(np.repeat(one[:, None], 8, 1)))
    alone = win_rate(*crossed((rng.random((60, 8)) < 0.6).astype(float)))
    assert same.design_effect == pytest.approx(8, rel=0.2)
    assert same.prompt_icc == pytest.approx(1.0, abs=0.05)
    assert alone.design_effect < 2
    assert alone.prompt_icc < 0.15
    # half of the raters like one model, whatever the prompt
    partial = win_rate(*crossed(np.tile(np.arange(8) % 2.0, (60, 1))))
    assert partial.rater_icc > 0.9
    assert partial.these.high - partial.these.low < 0.01  # these raters would say so again
    assert partial.any.high - partial.any.low > 0.6


def test_the_variance_is_that_of_the_formula():
    """Cameron, Gelbach and Miller's Eq. 2.11 by hand, for four votes of two by two."""
    scores = np.array([[1.0, 0.0], [1.0, 1.0]])
    found = win_rate(*crossed(scores))
    errors = scores - 0.75
    by_prompt = 2 * (errors.sum(1) ** 2).sum() / 16
    by_rater = 2 * (errors.sum(0) ** 2).sum() / 16
    cells = 4 / 3 * (errors**2).sum() / 16
    low = max(by_prompt + by_rater - cells, 0.3 * (errors**2).sum() / 16)
    total = low + 0.25 * max(by_prompt - low, 0)
    assert found.design_effect == pytest.approx(total / (scores.var() / 4))


def test_the_other_model_has_the_other_rate():
    rng = np.random.default_rng(1)
    votes = rng.choice([0.0, 0.5, 1.0], p=[0.2, 0.2, 0.6], size=(50, 6))
    found, other = win_rate(*crossed(votes)), win_rate(*crossed(1 - votes))
    assert other.any.low == pytest.approx(1 - found.any.high)
    assert other.p == pytest.approx(found.p)
    assert found.p < 0.01
    assert found.any.low > 0.5


def test_votes_that_all_agree_have_an_interval():
    found = win_rate(*crossed(np.ones((30, 6))))
    assert found.any.high == 1.0
    assert found.any.low == pytest.approx(0.025 ** (1 / 6))  # six raters, each a try
    assert found.these.low == pytest.approx(0.025 ** (1 / 30))
    assert found.p == pytest.approx(2 * 0.5**6)
    lost = win_rate(*crossed(np.zeros((30, 6))))
    assert (lost.any.low, lost.any.high) == pytest.approx((0.0, 1 - found.any.low))


def test_one_rater_tells_of_no_other_rater():
    found = win_rate(np.tile([1.0, 0.0, 1.0], 10), np.arange(30), np.zeros(30))
    assert found.any.low is found.any.high is found.p is found.design_effect is None
    assert found.these.low < found.rate < found.these.high


def test_what_is_no_vote_is_refused():
    with pytest.raises(ValueError, match=r"0, 0\.5 or 1"):
        win_rate(np.array([0.7]), np.zeros(1), np.zeros(1))
