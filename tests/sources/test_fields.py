"""Test that a source's fields are found under any spelling and type.

A value that cannot be understood is named.
"""

import decimal
import math

import pytest

from data_pipeline.sources.fields import names_of, read_fields, same_key, states, value_of
from data_pipeline.sources.texts import parse_json
from data_pipeline.sources.values import plain_tags


@pytest.mark.parametrize(
    ("raw", "field", "value"),
    [
        ({"punsafe": 1}, "unsafe", 1.0),
        ({"PUnsafe ": "\ufeff0.25\n"}, "unsafe", 0.25),
        ({"nsfw-score": "2,5e-1"}, "unsafe", 0.25),
        ({"unsafe": True}, "unsafe", 1.0),
        ({"unsafe": "False"}, "unsafe", 0.0),
        ({"punsafe": [None, b"0.5"]}, "unsafe", 0.5),
        ({"punsafe": ["0.5", 0.5]}, "unsafe", 0.5),  # twice the same
        ({"punsafe": None, "nsfw_score": 0.5}, "unsafe", 0.5),
        ({"PUNSAFE": math.nan, "punsafe": 0.5}, "unsafe", 0.5),
        ({"watermark": decimal.Decimal("0.125")}, "watermark", 0.125),
        ({"Aesthetic Score": "\uff15.\uff15"}, "aesthetic", 5.5),  # full-width digits
        ({"NSFW": True}, "nsfw", "NSFW"),
        ({"nsfw": 0}, "nsfw", "SFW"),
        ({"nsfw": "1.0"}, "nsfw", "NSFW"),
        ({"NSFW": ["NS\u200bFW"]}, "nsfw", "NSFW"),
        ({"NSFW": "\uff2e\uff33\uff26\uff37"}, "nsfw", "NSFW"),
        *(({"punsafe": nothing}, "unsafe", None) for nothing in ("", " ", "NaN", "null", [], b"")),
        ({"aesthetics": "N/A"}, "aesthetic", None),
    ],
)
def test_a_field_is_read(raw, field, value):
    fields = read_fields(raw)
    assert value_of(fields.scores, field) == value
    assert not fields.unreadable


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"punsafe": "high"}, "unsafe"),
        ({"punsafe": 99}, "unsafe"),  # percent
        ({"punsafe": -1}, "unsafe"),  # for none
        ({"punsafe": "99%"}, "unsafe"),
        ({"punsafe": [0.1, 0.9]}, "unsafe"),
        ({"punsafe": 0.1, "PUNSAFE": 0.9}, "unsafe"),
        ({"punsafe": {"score": 0.9}}, "unsafe"),
        ({"punsafe": b"\xff\xfe\x00"}, "unsafe"),
        ({"aesthetic": math.inf}, "aesthetic"),
        ({"aesthetic": 10**400}, "aesthetic"),
        ({"aesthetic": False}, "aesthetic"),
        ({"NSFW": 0.97}, "nsfw"),
        ({"NSFW": "0.97"}, "nsfw"),
        ({"NSFW": "['NSFW']"}, "nsfw"),  # as pandas writes lists into a csv
        ({"NSFW": ["NSFW", "UNLIKELY"]}, "nsfw"),
        ({"url": 7}, "url"),
        ({"url": ["http://a", "http://b"]}, "url"),
        ({"url": "http://a\0b"}, "url"),
        ({"url": "http://a/\ud800"}, "url"),
        ({"url": b"http://\xe9"}, "url"),
        ({"url": "http://a/" + "x" * 8192 + "bad.example"}, "url"),
        ({"language": {"code": "en"}}, "language"),
        ({"caption": 7}, "caption"),
        ({"text": ["a", {}, 1]}, "caption"),
    ],
)
def test_a_field_that_is_there_and_not_understood_is_named(raw, field):
    fields = read_fields(raw)
    assert list(fields.unreadable) == [field]
    assert fields.unreadable[field].split(" = ")[0] in raw
    assert len(fields.unreadable[field]) < 100
    assert not fields.scores
    assert not fields.url
    if field in ("url", "unsafe", "aesthetic", "nsfw"):
        assert states(fields.url, fields.scores, fields.unreadable)[field] == "unreadable"


def test_a_name_twice_in_json_is_two_values():
    assert list(read_fields(parse_json('{"punsafe": 0.1, "punsafe": 0.9}')).unreadable) == [
        "unsafe"
    ]
    assert read_fields(parse_json('{"punsafe": 0.1, "punsafe": 0.1}')).scores == {"punsafe": 0.1}
    assert read_fields(parse_json('{"caption": "a", "caption": "b"}')).captions == ("a", "b")


def test_a_field_after_many_others_is_found():
    many = {f"x{i}": i for i in range(1000)}
    fields = read_fields({**many, "NSFW": "NSFW", "URL": "http://a"})
    assert (fields.scores["NSFW"], fields.url) == ("NSFW", "http://a")
    assert len(fields.scores) == 257


@pytest.mark.parametrize(
    "raw",
    [
        {"caption": ["one", "two"]},
        {"TEXT": ["one", None, " ", "two\n"]},
        {"captions": [b"one", "\ufefftwo", "one"]},
        {"caption": None, "txt": ("one", "two")},
        {"caption": "one", "Caption": "two"},
    ],
)
def test_several_captions_are_all_kept(raw):
    assert read_fields(raw).captions == ("one", "two")


def test_other_numbers_stay_as_they_are_and_sizes_are_left_to_measuring():
    raw = {"width": 3, "original_height": 4, "x": 1, "ok": True, "note": "text", "inf": math.inf}
    assert read_fields(raw).scores == {"x": 1}
    assert read_fields({"similarity": "0.3", "license": "?"}).scores == {
        "similarity": 0.3,
        "license": "?",
    }


def test_tags_of_one_text():
    assert plain_tags("NSFW, unsure") == plain_tags("nsfw|UNSURE;") == {"nsfw", "unsure"}
    assert plain_tags("true") == plain_tags("1") == {"nsfw"}


@pytest.mark.parametrize("value", [12, 12.0, "12", " 12", [12], b"12", decimal.Decimal("12.00")])
def test_keys_that_are_the_same(value):
    assert same_key(value) == "12"


@pytest.mark.parametrize("value", [None, "", {}, ["a", "b"], math.nan, math.inf, b"\xff", {"a": 1}])
def test_values_that_are_no_key(value):
    assert same_key(value) is None


def test_every_name_is_spelled_as_it_is_looked_for():
    for field in ("url", "nsfw", "unsafe", "watermark", "aesthetic"):
        for name in names_of(field):
            value = "http://x" if field == "url" else 1
            fields = read_fields({name.upper(): value})
            assert states(fields.url, fields.scores, fields.unreadable)[field] == "read"
