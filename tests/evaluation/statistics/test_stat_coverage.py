"""Test that intervals hold a known truth as often as they say, and the stored table of it."""

import importlib
import json
from pathlib import Path

import pytest
from scipy import stats

ROOT = Path(__file__).parents[3]
COUNT = 150


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("eval_statistics")


def allowed(share):
    """Return whether a share of COUNT may come, at odds of 1e-4, from a coverage in 0.93..0.97."""
    hits = round(share * COUNT)
    return (
        stats.binom.cdf(hits, COUNT, 0.93) > 1e-4 and stats.binom.sf(hits - 1, COUNT, 0.97) > 1e-4
    )


def test_means_and_differences(script, monkeypatch):
    monkeypatch.setattr(
        script.bootstrap.mean_interval,
        "__kwdefaults__",
        {
            "draws": 500,
            "seed": 0,
            "level": 0.95,
        },
    )
    rows = list(script.means(COUNT, (20,)))
    assert len(rows) == 9
    assert [row for row in rows if not allowed(row["coverage"])] == []
    (row,) = script.pairs(COUNT, (20,))
    assert allowed(row["coverage"])
    assert row["rejected"] == pytest.approx(1 - row["coverage"], abs=0.02)


def test_win_rates(script):
    studies = [one for one in script.STUDIES if one.raters >= 5 and one.prompts <= 100]
    rows = list(script.rates(COUNT, tuple(studies)))
    assert len(rows) == 7
    assert [row for row in rows if not allowed(row["coverage"])] == []


def test_the_bound_would_see_independent_votes(script):
    """As intervals that leave clusters out of account: these hold the truth far less often."""
    study = script.Votes(50, 10, 10, 1.5, 0.5, 0.3)

    def one(rng):
        scores, prompts, _ = study.draw(rng)
        half = 1.96 * scores.std() / len(prompts) ** 0.5
        return abs(scores.mean() - study.truth) <= half

    assert not allowed(script.share_of(COUNT, one))


def test_agreement(script):
    (row,) = script.alphas(COUNT, (50,))
    assert allowed(row["coverage"])


def test_the_stored_table_has_the_bars(script):
    """But for one case, which docs/benchmarks.md names."""
    found = json.loads((ROOT / "benchmarks/results/eval_statistics.json").read_text())
    assert found["count"] >= 1000
    assert len(found["means"]) == 36
    assert len(found["rates"]) == len(script.STUDIES)
    (missed,) = script.missed(found)
    assert "'skewed', 'sizes': '4 each', 'clusters': 50, 'coverage': 0.923" in missed
    assert "50 prompts with 4 pictures each: 92.3 %" in (ROOT / "docs/benchmarks.md").read_text()
    for row in found["powers"]:
        assert row["power"] == pytest.approx(row["planned"], abs=0.05)
    page = (ROOT / "benchmarks/results/eval_statistics.md").read_text()
    assert script.report(found) in page
    assert found["date"] in page
