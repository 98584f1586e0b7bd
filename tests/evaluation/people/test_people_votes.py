"""Test the file of votes: what is written stays, and other files and studies are refused."""

import dataclasses
import sqlite3
import threading

import pytest

from cv3jax.evaluation.people.study import Study
from cv3jax.evaluation.people.votes import FIRST, SECOND, TIE, Vote, Votes
from data_pipeline.io.errors import InputError

STUDY = Study(("a", "b"), ("one", "two", "three"), 1, "00")


@pytest.fixture
def votes(tmp_path):
    found = Votes(tmp_path / "votes.sqlite", STUDY)
    yield found
    found.close()


def vote(rater="ann", place=0, alignment=FIRST, quality=TIE):
    return Vote(rater, place, STUDY.order(rater)[place], alignment, quality, 2.5, 1e9)


def test_a_vote_is_there_again_with_its_study(votes, tmp_path):
    token = votes.enter("ann")
    votes.cast(vote())
    again = Votes(tmp_path / "votes.sqlite")
    assert again.study == STUDY
    assert again.all() == [vote()]
    assert again.rater(token) == "ann"
    assert again.rater("other") is None
    again.close()


def test_writes_are_on_the_disk_before_they_return(votes, tmp_path):
    assert votes._db.execute("pragma journal_mode").fetchone()[0] == "wal"
    assert votes._db.execute("pragma synchronous").fetchone()[0] == 2  # full
    assert votes._db.in_transaction is False


def test_a_name_keeps_its_token(votes):
    token = votes.enter("ann")
    assert votes.enter("ann") == token != votes.enter("ben")
    assert votes.raters() == ["ann", "ben"]
    assert len(token) >= 24


def test_a_second_vote_replaces_the_first_and_is_counted(votes):
    votes.enter("ann")
    votes.cast(vote())
    votes.cast(vote())  # sent again, with the same answers
    assert votes.at("ann", 0).changes == 0
    votes.cast(vote(alignment=SECOND))
    assert votes.done("ann") == 1
    assert votes.at("ann", 0) == vote(alignment=SECOND)._replace(changes=1)


def test_many_raters_vote_at_a_time(votes):
    def judge(name):
        votes.enter(name)
        for place in range(3):
            votes.cast(vote(name, place))

    threads = [threading.Thread(target=judge, args=(f"rater {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(votes.all()) == 24


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": ("a", "c")}, "compares a, b"),
        ({"prompts": ("one",)}, "votes on 3 other prompts"),
        ({"pictures": "11"}, "votes on other pictures"),
        ({"seed": 5}, "begun with --seed 0"),
        ({"controls": 0.2}, "begun with --controls 0.1"),
    ],
)
def test_votes_of_another_study_are_not_gone_on_with(votes, tmp_path, change, said):
    with pytest.raises(InputError, match=said):
        Votes(tmp_path / "votes.sqlite", dataclasses.replace(STUDY, **change))


def test_other_files_are_refused(tmp_path):
    text, other, damaged = (tmp_path / name for name in ("text", "other", "damaged"))
    text.write_text("votes")
    sqlite3.connect(other).execute("create table mine (a)").connection.commit()
    damaged.write_bytes(b"SQLite format 3\0" + bytes(4000))
    for path in (text, other, damaged, tmp_path, tmp_path / "none"):
        for study in (None, STUDY):
            if (path.name, study) == ("none", STUDY):
                continue
            with pytest.raises(InputError, match=f"--votes {path}"):
                Votes(path, study)
    assert text.read_text() == "votes"
    assert sqlite3.connect(other).execute("select name from sqlite_master").fetchall() == [
        ("mine",)
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("update votes set pair = 99", "a vote is on no pair"),
        ("update votes set pair = 'one'", "a vote is on no pair"),
        ("update votes set shown_left = 7", "a vote is on other models"),
        ("update votes set kind = 'other'", "a vote is of no kind"),
        ("update votes set kind = 'swapped'", "a vote is of no kind"),
        ("update votes set kind = 'swapped', before = 5", "a control shows nothing"),
        ("update votes set kind = 'swapped', before = 0 where place = 2", None),
        ("update votes set kind = 'swapped', before = 0 where place = 2", "a vote is gone"),
        ("update votes set seconds = 'long'", "a vote has no time"),
        ('update study set said = replace(said, \'"each": 1\', \'"each": "x"\')', "each is 'x'"),
        ("update study set said = replace(said, '\"each\": 1', '\"each\": 9000')", None),
        ("update study set said = replace(said, '0.1', '1')", "controls is '1'"),
        ("update study set said = replace(said, 'null', '0')", "limit is '0'"),
        ("update study set said = '[]'", "it is no object"),
        ("update study set said = x'00'", "is damaged"),
        ("create trigger t after insert on votes begin delete from votes; end", "has no votes of"),
        ("create view v as select 1", "has no votes of this program"),
    ],
)
def test_a_file_that_was_written_by_another_is_one_line(votes, tmp_path, change, said):
    votes.enter("ann")
    for place in range(3):
        votes.cast(vote(place=place))
    votes._db.execute(change)
    if said == "a vote is gone":
        votes._db.execute("delete from votes where place = 0")
    path = tmp_path / "votes.sqlite"
    if said is None:
        assert len(Votes(path).all()) == 3
        return
    with pytest.raises(InputError, match=f"--votes {path}.*{said}") as e:
        Votes(path).all()
    assert "\n" not in str(e.value)


def test_a_study_of_too_many_pairs_is_refused():
    many = dataclasses.replace(STUDY, prompts=("one",) * 2000, each=9000).to_json()
    with pytest.raises(ValueError, match="more than 10,000,000 pairs"):
        Study.from_json(many | {"models": ["a", "b"], "prompts": list(many["prompts"])})
