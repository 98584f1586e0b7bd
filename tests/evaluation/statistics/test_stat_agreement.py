"""Test Krippendorff's alpha against published worked examples."""

import numpy as np
import pytest

from cv3jax.evaluation.statistics.agreement import krippendorff


def rows(*raters):
    """Return units and ratings of texts of one sign a unit; a dot is a missing rating."""
    found = [(i, ord(sign)) for text in raters for i, sign in enumerate(text) if sign != "."]
    return np.array(found).T


# examples A, B and C of "Computing Krippendorff's Alpha-Reliability", 2011, and the example of
# missing data in the English Wikipedia's article
@pytest.mark.parametrize(
    ("raters", "alpha"),
    [
        (("0100000010", "1110010000"), 0.095),
        (("aabbdcccedda", "babbbccceddd"), 0.692),
        (("123321412...", "1233224125.3", ".3332342251.", "12332441251."), 0.743),
        ((".....34121133.3", "1.213343.......", "..21344.21133.4"), 0.691),
    ],
)
def test_published_examples(raters, alpha):
    assert krippendorff(*rows(*raters)).alpha == pytest.approx(alpha, abs=5e-4)


def test_full_agreement_is_one_and_chance_is_zero():
    rng = np.random.default_rng(0)
    kinds = rng.integers(3, size=2000)
    assert krippendorff(np.tile(np.arange(2000), 2), np.tile(kinds, 2)).alpha == 1.0
    apart = krippendorff(np.tile(np.arange(2000), 2), rng.integers(3, size=4000))
    assert abs(apart.alpha) < 0.06
    assert apart.low < 0 < apart.high


def test_disagreement_by_rule_is_below_zero():
    assert krippendorff(*rows("ababab", "bababa")).alpha < -0.5


def test_where_nothing_tells_what_chance_would_give():
    assert krippendorff(*rows("aaaa", "aaaa")).alpha is None
    assert krippendorff(*rows("ab..", "..ab")).alpha is None  # no unit has two ratings
    assert krippendorff(np.array([]), np.array([])) == (None, None, None, 0, 0)
    assert krippendorff(*rows("ab", "b.")).low is None  # one unit


def test_units_of_two_kinds_are_resampled_together():
    found = krippendorff(*rows("abcabcabca" * 3, "abcabcabcb" * 3))
    assert found.low < found.alpha < found.high <= 1.0
