"""Test the journal: reading after a kill, its owner, and which questions are asked again."""

import numpy as np
import pytest

from data_pipeline.chat import answers
from data_pipeline.chat.answers import Answer, Failure, Tokens
from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.recaption.journal import Journal, identify
from data_pipeline.records.records import make_record

RECORD = make_record(encode_png(np.zeros((8, 8, 3), np.uint8)), "old", key="k")
ASKED = {"model": "m", "dialogue": {"turns": ["a", "b", "c"]}, "max_tokens": 10}


def test_the_journal_continues_after_a_torn_line(tmp_path):
    name = identify(RECORD)
    with Journal(tmp_path, ASKED, turns=3) as journal:
        journal.write(RECORD, name, 0, Answer("σ\u2028one", Tokens(10, 2)), 1)
        journal.write(RECORD, name, 1, Answer("two"), 3)
    whole = journal.path.read_bytes()
    for torn in (
        b'{"event": "answer", "id": "',
        b"\0\0\0",
        whole.splitlines(keepends=True)[-1][:-1],
    ):
        journal.path.write_bytes(whole + torn)
        with Journal(tmp_path, ASKED, turns=3) as journal:
            assert journal.answers(name) == ["σ\u2028one", "two"]
            assert not journal.ended(name)
            assert (journal.totals.requests, journal.totals.retries, journal.totals.unmeasured) == (
                4,
                2,
                1,
            )
        assert journal.path.read_bytes() == whole
    with Journal(tmp_path, ASKED, turns=3) as journal:
        journal.write(RECORD, name, 2, Answer("three", Tokens(5, 1)), 1)
        assert journal.result(name) == Answer("three")
    with Journal(tmp_path, ASKED, turns=3) as journal:
        assert journal.result(name) == Answer("three")
        assert journal.answers(name) == []
        assert (journal.totals.prompt_tokens, journal.totals.completion_tokens) == (15, 3)
    for field in ("caption", "key", "sha256"):
        assert identify({**RECORD, field: "other"}) != name


def test_what_failed_is_asked_again_where_that_may_help(tmp_path):
    names = {}
    with Journal(tmp_path, ASKED, turns=3) as journal:
        for reason in (answers.TIMEOUT, answers.REFUSED):
            record = {**RECORD, "key": reason}
            names[reason] = identify(record)
            journal.write(record, names[reason], 0, Answer("one"), 1)
            journal.write(record, names[reason], 1, Failure(reason, "so"), 6)
    with Journal(tmp_path, ASKED, turns=3) as journal:
        assert [journal.result(name) for name in names.values()] == [
            Failure(reason, "so") for reason in names
        ]
    with Journal(tmp_path, ASKED, turns=3, retry_failed=True) as journal:
        assert journal.ended(names[answers.REFUSED])
        assert not journal.ended(names[answers.TIMEOUT])
        assert journal.answers(names[answers.TIMEOUT]) == ["one"]
        journal.write(
            {**RECORD, "key": answers.TIMEOUT}, names[answers.TIMEOUT], 1, Answer("two"), 1
        )
    with Journal(tmp_path, ASKED, turns=3) as journal:
        assert journal.answers(names[answers.TIMEOUT]) == ["one", "two"]
        journal.write(
            {**RECORD, "key": answers.TIMEOUT},
            names[answers.TIMEOUT],
            2,
            Failure(answers.SERVER),
            1,
        )
        assert journal.result(names[answers.TIMEOUT]) == Failure(answers.SERVER)


def test_a_journal_of_something_else_is_refused(tmp_path):
    with Journal(tmp_path, ASKED, turns=3) as journal:
        journal.write(RECORD, identify(RECORD), 0, Answer("one"), 1)
        with pytest.raises(InputError, match="in use by another process"):
            Journal(tmp_path, ASKED, turns=3)
    for other, message in (
        ({**ASKED, "model": "n"}, "model 'm' where this run has 'n'"),
        ({**ASKED, "max_tokens": 20}, "max_tokens 10 where this run has 20"),
        ({**ASKED, "dialogue": {"turns": []}}, "another dialogue"),
    ):
        with pytest.raises(InputError, match=f"{message}.*--overwrite"):
            Journal(tmp_path, other, turns=3)
    with Journal(tmp_path, {**ASKED, "model": "n"}, turns=3, overwrite=True) as journal:
        assert journal.answers(identify(RECORD)) == []
    # answers are paid for: nothing throws them away
    assert (tmp_path / "journal.jsonl.old-1").read_bytes().count(b"\n") == 2
    for line in (
        b"{}\n",
        b"7\n",
        b"\xff\n",
        b'{"event": "answer", "id": "zz", "turn": 0, "attempts": 1, "tokens": null}\n',
    ):
        journal.path.write_bytes(journal.path.read_bytes().splitlines(keepends=True)[0] + line)
        with pytest.raises(InputError, match="line 2 is damaged"):
            Journal(tmp_path, {**ASKED, "model": "n"}, turns=3)
    journal.path.write_bytes(b"7\n")
    with pytest.raises(InputError, match="line 1 is damaged"):
        Journal(tmp_path, ASKED, turns=3)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Journal(tmp_path / "file", ASKED, turns=3)
