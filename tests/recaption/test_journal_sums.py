"""Test that a changed letter in a recaptioning journal is noticed."""

import json

import pytest

from data_pipeline.chat.answers import Answer
from data_pipeline.io.errors import InputError
from data_pipeline.recaption.journal import NAME, Journal, identify

RECORD = {"key": "a", "sha256": "0" * 64, "caption": "a dog"}
ASKED = {"model": "m"}


def answer(folder) -> Answer:
    with Journal(folder, ASKED, turns=1) as journal:
        if not journal.ended(identify(RECORD)):
            journal.write(RECORD, identify(RECORD), 0, Answer("a brown dog"), 1)
        return journal.result(identify(RECORD))


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"brown", b"crown"), (b'"attempts": 1', b'"attempts": 3'), (b'"crc": ', b'"crc": 1')],
)
def test_a_changed_letter_is_named_with_its_line(before, after, tmp_path):
    assert answer(tmp_path).text == "a brown dog"
    data = (tmp_path / NAME).read_bytes()
    assert data.count(before) == 1
    (tmp_path / NAME).write_bytes(data.replace(before, after))
    with pytest.raises(InputError, match="line 2 is damaged; restore the file"):
        answer(tmp_path)


def test_a_journal_without_checksums_is_read(tmp_path):
    answer(tmp_path)
    first, second = (tmp_path / NAME).read_text().splitlines()
    line = json.loads(second)
    del line["crc"]
    line["text"] = "an older answer"
    (tmp_path / NAME).write_text(f"{first}\n{json.dumps(line)}\n")
    assert answer(tmp_path).text == "an older answer"
