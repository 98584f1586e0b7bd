"""Test intervals over clusters: what they are of, and that p fits them."""

import numpy as np
import pytest

from cv3jax.evaluation.statistics import bootstrap


def test_the_mean_is_of_rows_and_the_interval_of_clusters():
    values, clusters = np.array([1.0, 2.0, 3.0, 10.0]), np.array([7, 7, 7, 9])
    found = bootstrap.mean_interval(values, clusters)
    assert found.value == 4.0
    assert (found.clusters, found.n) == (2, 4)
    assert (found.low, found.high) == (2.0, 10.0)  # each cluster alone
    assert found == bootstrap.mean_interval(values, clusters)  # the seed decides


def test_copies_of_a_prompts_picture_tell_nothing():
    rng = np.random.default_rng(0)
    values, clusters = rng.normal(size=60), np.arange(60)
    alone = bootstrap.mean_interval(values, clusters)
    copies = bootstrap.mean_interval(np.repeat(values, 9), np.repeat(clusters, 9))
    assert copies[:3] == pytest.approx(alone[:3])
    taken_apart = bootstrap.mean_interval(np.repeat(values, 9), np.arange(540))
    assert taken_apart.high - taken_apart.low < 0.5 * (alone.high - alone.low)


def test_few_clusters_have_the_interval_of_student():
    """Percentiles of resamples alone would be narrower by a fifth."""
    values = np.random.default_rng(1).normal(size=10)
    found = bootstrap.mean_interval(values, np.arange(10), draws=20_000)
    half = 2.262 * values.std(ddof=1) / np.sqrt(10)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)


def test_one_cluster_has_no_interval():
    found = bootstrap.mean_interval(np.array([1.0, 2.0]), np.array([3, 3]))
    assert found == (1.5, None, None, 1, 2)
    two = bootstrap.paired(np.ones(2), np.zeros(2), np.array([3, 3]))
    assert two == (1.0, None, None, None, 1, 2)
    assert bootstrap.interval_of(len, np.zeros(3)) == (3.0, None, None, 1, 3)


@pytest.mark.parametrize(
    ("values", "clusters", "said"),
    [
        (np.ones(3), np.ones(2), "give one of each"),
        (np.ones(0), np.ones(0), "give one of each"),
        (np.array([1.0, np.nan]), np.ones(2), "not finite"),
    ],
)
def test_wrong_arrays_are_refused(values, clusters, said):
    with pytest.raises(ValueError, match=said):
        bootstrap.mean_interval(values, clusters)


def test_a_sets_figure_that_repetition_moves_is_in_its_interval():
    """The share of different pictures falls to 0.63 in each resample."""
    values = np.random.default_rng(2).normal(size=80)
    found = bootstrap.interval_of(lambda rows: len(np.unique(values[rows])) / len(rows), values)
    assert found.value == 1.0
    assert found.low < 1.0 < found.high
    assert found.high - found.low < 0.3


def test_a_sets_mean_has_the_interval_of_a_mean():
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(40), 3)
    values = rng.normal(size=40)[clusters] + rng.normal(size=120)
    as_set = bootstrap.interval_of(lambda rows: values[rows].mean(), clusters, draws=4000)
    as_mean = bootstrap.mean_interval(values, clusters, draws=4000)
    assert as_set[:3] == pytest.approx(as_mean[:3], abs=0.05)


def test_p_is_small_where_the_interval_leaves_out_zero():
    rng = np.random.default_rng(4)
    outcomes = set()
    for shift in np.linspace(0.0, 0.8, 41):
        shared = rng.normal(size=30)
        b = shared + 0.5 * rng.normal(size=30)
        found = bootstrap.paired(shared + shift, b, np.arange(30))
        assert found.difference == pytest.approx((shared + shift - b).mean())
        apart = not found.low <= 0 <= found.high
        assert apart == (found.p < 0.05) or abs(found.p - 0.05) < 0.01
        outcomes.add(apart)
    assert outcomes == {True, False}


def test_the_same_scores_have_no_difference():
    values = np.random.default_rng(5).normal(size=30)
    found = bootstrap.paired(values, values, np.arange(30))
    assert found[:4] == (0.0, 0.0, 0.0, 1.0)


def test_pairs_are_told_where_the_two_means_alone_are_not():
    rng = np.random.default_rng(6)
    hard = 5 * rng.normal(size=50)
    a, b = hard + 0.3, hard + 0.1 * rng.normal(size=50)
    apart = [bootstrap.mean_interval(one, np.arange(50)) for one in (a, b)]
    assert apart[0].low < apart[1].high  # the intervals overlap
    assert bootstrap.paired(a, b, np.arange(50)).p < 0.002
    of_set = bootstrap.paired_of(lambda rows: a[rows].mean() - b[rows].mean(), np.arange(50))
    assert of_set.p < 0.01
    assert of_set.low > 0
