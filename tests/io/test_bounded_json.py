"""Test the limits of JSON from outside: what exceeds one is refused in one line, and quickly."""

import json
import math

import pytest

from data_pipeline.io.bounded_json import (
    RECORDS,
    SETTINGS,
    Limits,
    ParseError,
    load_json,
    parse_json,
)
from data_pipeline.sources.texts import gather

BAD = {
    "nothing": (b"", "Expecting value"),
    "no JSON": (b"{'a': 1}", "Expecting property name"),
    "deep lists": (b"[" * 100_000, "nested more than 32 deep"),
    "closed deep lists": (b"[" * 400 + b"]" * 400, "nested more than 32 deep"),
    "deep objects": (b'{"a":' * 33 + b"1" + b"}" * 33, "nested more than 32 deep"),
    "a name twice": (b'{"a": 1, "b": {"c": 1, "c": 2}}', "^'c' is given twice$"),
    "NaN": (b'{"a": NaN}', "^NaN is no number$"),
    "infinity": (b"[-Infinity]", "^-Infinity is no number$"),
    "a number above all floats": (b"[1e999]", "^1e999 is too large for a number$"),
    "a long integer": (b"[" + b"9" * 41 + b"]", "more than 40 digits: 9{20}…$"),
    "a very long integer": (b"[" + b"9" * 900_000 + b"]", "more than 40 digits"),
    "many values": (b"[" + b"0," * 100_000 + b"0]", "more than 100,000 values"),
    "many names": (json.dumps({str(n): n for n in range(50_000)}).encode(), "100,000 values"),
    "too many bytes": (b" " * 2**20 + b"1", "more than 1,048,576 bytes"),
    "half a pair": (rb'{"a": ["\ud83d"]}', "half of a surrogate pair"),
    "half a pair in a name": (rb'{"\udc00": 1}', "half of a surrogate pair"),
    "not UTF-8": (b'["\xff"]', "can't decode byte 0xff"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_json_is_one_line(case):
    data, said = BAD[case]
    with pytest.raises(ParseError, match=said) as e:
        parse_json(data, SETTINGS)
    assert len(str(e.value).splitlines()) == 1
    assert len(str(e.value)) < 250


def test_a_long_text_is_refused():
    limits = Limits(text=4)
    assert parse_json('["abcd"]', limits) == ["abcd"]
    for data in ('["abcde"]', '{"abcde": 1}'):
        with pytest.raises(ParseError, match="more than 4 characters"):
            parse_json(data, limits)


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
def test_json_in_any_encoding(codec):
    value = {"ä": [1, -2.5, True, None, "😀"], "b": {}}
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(codec), SETTINGS) == value


def test_the_limits_themselves_are_allowed():
    assert parse_json("[" * 32 + "]" * 32, SETTINGS)
    assert len(parse_json("[" + "0," * 99_998 + "0]", SETTINGS)) == 99_999
    assert parse_json("9" * 40, SETTINGS) == 10**40 - 1
    assert float(parse_json("9" * 300, RECORDS)) == pytest.approx(1e300)


def test_what_a_caller_may_allow():
    assert math.isnan(parse_json("NaN", nan=True))
    assert parse_json("1e999", nan=True) == math.inf
    assert parse_json(r'"\ud83d"', surrogates=True) == "\ud83d"
    assert parse_json('{"a": 1, "a": 2, "b": 3}', join=gather) == {"a": [1, 2], "b": 3}


def test_a_file_is_read_no_further_than_its_limit(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert load_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "long.json").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(ParseError, match="more than 1,048,576 bytes"):
        load_json(tmp_path / "long.json", SETTINGS)
    with pytest.raises(OSError, match="it is a device"):
        load_json("/dev/zero", SETTINGS)
    with pytest.raises(FileNotFoundError):
        load_json(tmp_path / "b.json")
