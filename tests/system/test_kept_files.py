"""Test that every JSON and YAML file from outside is read, or refused in one line.

A reader may accept a content, or refuse it with an InputError; any other error is a fault. Each
valid content is altered one field at a time, with every value of `altered_descriptions`.
"""

import json

import pytest
from kept_files import BEGIN, LINE, LINES, NEVER, ODD, READERS, alterations, outcome

from data_pipeline.io.errors import InputError


@pytest.mark.parametrize("name", READERS)
def test_a_file_is_read_or_refused_in_one_line(name, tmp_path):
    file, read, valid = READERS[name]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(valid))
    read(tmp_path)  # else what is altered would be refused for another reason
    wrong = {}
    for case, data in {**NEVER, **ODD, **alterations(valid)}.items():
        (tmp_path / file).write_bytes(data)
        if problem := outcome(read, tmp_path):
            wrong[case] = problem
    assert wrong == {}
    for case, data in NEVER.items():
        (tmp_path / file).write_bytes(data)
        with pytest.raises(InputError):
            read(tmp_path)
        assert case


@pytest.mark.parametrize("name", LINES)
def test_a_line_is_read_or_refused_in_one_line(name, tmp_path):
    file, read, valid = LINES[name]
    head = b"" if valid is BEGIN or name == "metrics" else json.dumps(BEGIN).encode() + b"\n"
    last = json.dumps(LINE if head or valid is BEGIN else {"step": 2}).encode() + b"\n"
    wrong = {}
    for case, data in {**NEVER, **ODD, **alterations(valid)}.items():
        (tmp_path / file).write_bytes(head + data.replace(b"\n", b" ") + b"\n" + last)
        if problem := outcome(read, tmp_path):
            wrong[case] = problem
    assert wrong == {}
    (tmp_path / file).write_bytes(head + json.dumps(valid).encode() + b"\n" + last)
    read(tmp_path)
