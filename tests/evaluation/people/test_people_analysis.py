"""Test the analysis of planted votes, failed controls, and the files that are written."""

import csv
import json
import random
import re

import pytest

from cv3jax.commands import judge_analyse, judge_export, judge_plan
from cv3jax.evaluation.people import export
from cv3jax.evaluation.people.analysis import analyse
from cv3jax.evaluation.people.controls import raters_of
from cv3jax.evaluation.people.study import SWAPPED, TRIAL, Study
from cv3jax.evaluation.people.votes import FIRST, SECOND, TIE, Vote, Votes
from data_pipeline.io.errors import InputError

STUDY = Study(("ours", "theirs"), tuple(f"prompt {i}" for i in range(60)), 1, "00", controls=0.2)
THREE = Study(("best", "middle", "worst"), tuple(f"prompt {i}" for i in range(40)), 1, "00")


def answer(shown, best):
    return TIE if best is None else FIRST if shown.left == best else SECOND


def judged(study, rater, prefers):
    """Return a rater's votes; prefers(pair) is a model's number or None, for both questions."""
    votes = []
    for place, shown in enumerate(study.order(rater)):
        given = answer(shown, prefers(study.pairs[shown.pair]))
        votes.append(Vote(rater, place, shown, given, given, 3.0, 1e9))
    return votes


def steady(share, seed):
    """Return a preference that takes the first model for a share of the pairs, and stays so."""
    choice = random.Random(seed)
    kept = {}
    return lambda pair: kept.setdefault(pair, pair[2] if choice.random() < share else pair[3])


def clicks_left(study, rater):
    return [
        Vote(rater, place, shown, FIRST, FIRST, 0.4, 1e9)
        for place, shown in enumerate(study.order(rater))
    ]


def test_the_rate_is_wins_and_half_of_ties_of_the_first_model():
    votes = judged(STUDY, "ann", lambda pair: [0, 1, None, 0][pair.prompt % 4])
    found = analyse(STUDY, votes, exclude_above=None)
    assert found["votes"] == 60  # no control
    (row,) = found["aspects"]["alignment"]["pairs"]
    assert (row["a"], row["b"]) == ("ours", "theirs")
    assert (row["wins"], row["ties"], row["losses"]) == (30, 15, 15)
    assert row["rate"] == 0.625
    assert row["low"] is None  # of other raters one rater tells nothing
    assert row["low_these"] < 0.625 < row["high_these"]
    both = found["aspects"]["both"]["pairs"][0]
    assert (both["wins"], both["rate"]) == (60, 0.625)
    assert found["aspects"]["alignment"]["agreement"]["alpha"] is None


def test_planted_preferences_are_found_with_several_raters():
    votes = [v for i in range(8) for v in judged(STUDY, f"rater {i}", steady(0.8, i))]
    aspect = analyse(STUDY, votes, exclude_above=None)["aspects"]["quality"]
    (row,) = aspect["pairs"]
    assert row["rate"] == pytest.approx(0.8, abs=0.05)
    assert 0.6 < row["low"] < row["rate"] < row["high"] < 0.9
    assert row["p"] < 0.01
    assert abs(aspect["agreement"]["alpha"]) < 0.15  # each of them chose by chance
    assert aspect["agreement"]["units"] == 60
    same = steady(0.6, 0)
    alike = [v for i in range(4) for v in judged(STUDY, f"rater {i}", same)]
    aspect = analyse(STUDY, alike, exclude_above=None)["aspects"]["quality"]
    assert aspect["agreement"]["alpha"] == 1.0
    assert 3 < aspect["pairs"][0]["design_effect"] < 4.2  # four raters say what one does


def test_three_models_have_ratings_in_their_order():
    def prefers(pair):
        return pair.first if (pair.prompt + pair.first) % 5 else pair.second

    votes = [v for i in range(3) for v in judged(THREE, f"rater {i}", prefers)]
    aspect = analyse(THREE, votes, exclude_above=None)["aspects"]["alignment"]
    assert [(row["a"], row["b"]) for row in aspect["pairs"]] == [
        ("best", "middle"),
        ("best", "worst"),
        ("middle", "worst"),
    ]
    assert [row["model"] for row in aspect["ratings"]] == ["best", "middle", "worst"]
    assert aspect["agreement"]["alpha"] == 1.0
    always = judged(THREE, "ann", lambda pair: pair.first)
    aspect = analyse(THREE, always, exclude_above=None)["aspects"]["alignment"]
    assert aspect["ratings"] is None
    assert "won all or none" in aspect["unrated"]


def test_who_clicks_left_fails_the_swapped_controls_alone():
    votes = clicks_left(STUDY, "bot")
    swapped = sum(vote.shown.kind == SWAPPED for vote in votes)
    (rater,) = raters_of(votes, None)
    assert rater.controls == 2 * sum(vote.shown.kind != TRIAL for vote in votes)
    assert rater.failed == rater.changed == 2 * swapped > 8
    assert rater.first == 1.0
    (honest,) = raters_of(judged(STUDY, "ann", steady(0.7, 1)), None)
    assert honest.failed == honest.changed == 0


def test_a_tie_that_becomes_a_win_changes_and_does_not_fail():
    votes = judged(STUDY, "ann", steady(0.7, 1))
    moved = [v if v.shown.kind == TRIAL else v._replace(quality=TIE) for v in votes]
    (rater,) = raters_of(moved, None)
    assert rater.failed == 0
    assert rater.changed == rater.controls / 2


def test_raters_above_the_threshold_do_not_count():
    votes = judged(STUDY, "ann", lambda pair: 0) + clicks_left(STUDY, "bot")
    every = analyse(STUDY, votes, exclude_above=None)
    some = analyse(STUDY, votes, exclude_above=0.3)
    assert every["votes"] == 120
    assert some["votes"] == 60
    assert some["aspects"]["alignment"]["pairs"][0]["rate"] == 1.0
    assert [row["excluded"] for row in some["raters"]] == [False, True]
    with pytest.raises(InputError, match="all 1 raters are excluded"):
        analyse(STUDY, clicks_left(STUDY, "bot"), exclude_above=0.3)
    with pytest.raises(InputError, match="no vote to analyse"):
        analyse(STUDY, [], exclude_above=None)


@pytest.fixture
def kept(tmp_path):
    """Make a file of votes whose names and prompts would be formulas and markup."""
    study = Study(
        ("=cmd|' /C calc'!A0", "<b>two</b>"), ("@SUM(A1)", "a <script>", "plain"), 1, "00"
    )
    votes = Votes(tmp_path / "votes.sqlite", study)
    for name in ("+ann", "<i>ben</i>"):
        votes.enter(name)
        for vote in judged(study, name, lambda pair: pair.prompt % 2):
            votes.cast(vote)
    votes.close()
    return tmp_path / "votes.sqlite"


def test_files_are_safe_for_spreadsheets_and_browsers(kept, tmp_path, capsys):
    judge_export.main(["--votes", str(kept), "--out", str(tmp_path / "out")])
    assert len(capsys.readouterr().out.splitlines()) == 4
    for name in (export.VOTES, export.RATES, export.RATERS):
        with open(tmp_path / "out" / name, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len(rows) > 1
        assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@", "-"))]
    with open(tmp_path / "out" / export.VOTES, newline="", encoding="utf-8") as file:
        votes = list(csv.DictReader(file))
    assert len(votes) == 6
    assert {row["prompt"] for row in votes} == {"'@SUM(A1)", "a <script>", "plain"}
    assert {row["alignment"] for row in votes} == {"'=cmd|' /C calc'!A0", "<b>two</b>"}
    page = (tmp_path / "out" / export.PAGE).read_text()
    assert "&lt;b&gt;two&lt;/b&gt;" in page
    assert not re.search(r"<b>two|<script|<i>ben|https?://", page)


@pytest.mark.parametrize("text", ["=1", " =1", "+1", "-1", "@a", "\t=1", "\r1", "\uff1d1"])
def test_formulas_become_text(text):
    assert export.cell(text) == f"'{text}"


def test_plain_cells_stay():
    assert [export.cell(one) for one in ("a=b", 5, -1.5, None, "")] == ["a=b", 5, -1.5, "", ""]


def test_the_commands_print_and_write_the_figures(kept, tmp_path, capsys):
    judge_analyse.main(["--votes", str(kept), "--json", str(tmp_path / "found.json")])
    said = capsys.readouterr().out
    assert "6 votes of 2 raters on 3 prompts" in said
    assert not re.search(r"\b1 (wins|ties|losses)\b", said)
    assert "66.7 %" in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["aspects"]["both"]["pairs"][0]["wins"] == 8
    judge_plan.main(["--num-prompts", "400", "--num-raters", "30", "--json", "-"])
    planned = json.loads(capsys.readouterr().out)
    assert 1200 < planned["votes"] < 1800
    judge_plan.main(["--num-prompts", "40", "--num-raters", "3"])
    assert "no number of votes tells 55 %" in capsys.readouterr().out
