"""Test plans: known numbers of votes, clusters, what no number of votes can tell, bad values."""

import numpy as np
import pytest

from cv3jax.evaluation.statistics.planning import Design, rate_told, votes_needed
from cv3jax.evaluation.statistics.win_rates import win_rate
from data_pipeline.io.errors import InputError

MANY = {"prompts": 100_000, "raters": 100_000}
ALONE = {"prompt_icc": 0.0, "rater_icc": 0.0}


def test_independent_votes_are_as_many_as_in_textbooks():
    """(1.95996 + 0.84162)² × 0.55 × 0.45 / 0.05² = 777.03, of a normal test without ties."""
    found = votes_needed(0.55, 0.8, Design(**MANY, ties=0.0, **ALONE))
    assert 777.03 < found < 1.01 * 777.03  # Student's t needs a few more


def test_ties_need_fewer_votes():
    """A tie has less variance than a win or a loss: (0.2475 − 0.3 / 4) / 0.2475."""
    some = votes_needed(0.55, 0.8, Design(**MANY, ties=0.3, **ALONE))
    none = votes_needed(0.55, 0.8, Design(**MANY, ties=0.0, **ALONE))
    assert some / none == pytest.approx(0.697, abs=0.01)


def test_clusters_need_more_votes():
    alone = votes_needed(0.55, 0.8, Design(500, 50, **ALONE))
    by_prompt = votes_needed(0.55, 0.8, Design(500, 50, prompt_icc=0.3, rater_icc=0.0))
    both = votes_needed(0.55, 0.8, Design(500, 50, prompt_icc=0.3, rater_icc=0.03))
    assert alone < by_prompt < both
    assert Design(100, 10, prompt_icc=0.1, rater_icc=0.02).design_effect(400) == pytest.approx(
        1 + 3 * 0.1 + 39 * 0.02
    )


def test_too_few_prompts_or_raters_tell_nothing_however_many_votes():
    assert votes_needed(0.55, 0.8, Design(50, 10)) is None
    assert votes_needed(0.75, 0.8, Design(50, 10)) is not None
    assert votes_needed(0.55, 0.8, Design(10_000, 2, rater_icc=0.02)) is None


def test_the_plan_is_the_least_that_has_the_power():
    design = Design(500, 50)
    votes = votes_needed(0.56, 0.8, design)
    assert design.power(votes, 0.56) >= 0.8 > design.power(votes - 1, 0.56)
    assert rate_told(0.8, votes, design) == pytest.approx(0.56, abs=1e-4)
    assert rate_told(0.8, 2, design) is None


def test_a_plan_has_its_power_in_simulation():
    """300 studies of the planned size; within three standard errors of 0.8, which is 0.07."""
    design = Design(600, 30, ties=0.2, prompt_icc=0.0, rater_icc=0.0)
    votes = votes_needed(0.58, 0.8, design)
    rng, found = np.random.default_rng(0), 0
    for _ in range(300):
        scores = rng.choice([1.0, 0.5, 0.0], p=[0.48, 0.2, 0.32], size=votes)
        raters = rng.integers(30, size=votes)
        found += win_rate(scores, np.arange(votes), raters, draws=2).any.low > 0.5
    assert abs(found / 300 - 0.8) < 0.07


@pytest.mark.parametrize(
    ("rate", "power", "design", "said"),
    [
        (0.5, 0.8, {}, "--rate 0.5"),
        (0.95, 0.8, {"ties": 0.2}, "at most 0.9"),
        (0.55, 1.0, {}, "--power 1"),
        (0.55, float("nan"), {}, "--power nan"),
        (0.55, 0.8, {"prompts": 0}, "--num-prompts 0"),
        (0.55, 0.8, {"ties": 1.0}, "--ties 1"),
        (0.55, 0.8, {"prompt_icc": -0.1}, "--prompt-icc -0.1"),
        (0.55, 0.8, {"level": 1.0}, "--level 1"),
    ],
)
def test_bad_values_are_refused(rate, power, design, said):
    with pytest.raises(InputError, match=said):
        votes_needed(rate, power, Design(**{"prompts": 100, "raters": 10, **design}))
