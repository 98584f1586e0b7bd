"""Test that the message of bad input is one line, whatever it quotes."""

import pickle

import pytest

from data_pipeline.io.errors import InputError


@pytest.mark.parametrize("end", "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
def test_a_line_break_is_escaped(end):
    error = InputError(f"a{end}b{end}: give é")
    (line,) = str(error).splitlines()
    assert line.startswith("a\\")
    assert line.endswith(": give é")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_other_messages_stay():
    for text in ("plain", "", "Σ 猫\x1b[2J", "a\\nb"):
        assert str(InputError(text)) == text
    assert str(InputError(ValueError("x"))) == "x"
