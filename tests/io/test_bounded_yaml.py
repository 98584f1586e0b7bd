"""Test the limits of YAML from outside: what exceeds one is refused in one line, and quickly."""

import time

import pytest

from data_pipeline.builder.settings import load_settings
from data_pipeline.io.bounded_json import ParseError
from data_pipeline.io.bounded_yaml import load_yaml, parse_yaml
from data_pipeline.io.errors import InputError

LAUGHS = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 30))]
)
BAD = {
    "an escape beyond Unicode": (r'a: "\U00110000"', "not in range"),
    "an escape beyond a C integer": (r'"\UFFFFFFFF": 1', "too large|not in range"),
    "a version of many digits": (f"%YAML {'1' * 5000}.1\n---\na: 1", "4300 digits"),
    "a tag that is no UTF-8": ("a: !%ff%fe b", "utf-8"),
    "laughs": (LAUGHS, r"it has an alias, \*a0; write the value itself"),
    "an anchor within itself": ("a: &a [*a]", r"it has an alias, \*a;"),
    "a merge of an anchor": ("a: &a {b: 1}\nc:\n  <<: *a\n", r"it has an alias, \*a;"),
    "deep lists": ("a: " + "[" * 5000, "nested more than 32 deep"),
    "deep mappings": ("{a: " * 100 + "1" + "}" * 100, "nested more than 32 deep"),
    "deep blocks": ("\n".join(" " * n + "a:" for n in range(200)), "nested more than 32 deep"),
    "deep names": ("? " * 500 + "a", "nested more than 32 deep"),
    "a name twice": ("min_side: 1\nmin_side: 2\n", "^'min_side' is given twice$"),
    "a number twice": ("1: a\n1: b\n", "^'1' is given twice$"),
    "a number that is a truth value": ("1: a\ntrue: b\n", "^'True' is given twice$"),
    "a list as name": ("? [a, b]\n: 1\n", "a name in it is a list or a mapping"),
    "an empty whole number": ("a: 0x_", "^'0x_' is no whole number$"),
    "text as whole number": ("a: !!int x", "^'x' is no whole number$"),
    "no whole number": ("a: !!int ''", "^'' is no whole number$"),
    "text as number": ("a: !!float x", "^'x' is no number$"),
    "a long number": ("a: " + "9" * 5000, "is no whole number: it has too many digits"),
    "base 60": ("a: 1" + ":59" * 5000, "is no whole number: it has too many digits"),
    "not a number": ("a: .nan", "'.nan' is no number that can be used here"),
    "infinity": ("a: -.inf", "'-.inf' is no number that can be used here"),
    "above all floats": ("a: !!float 1e999", "'1e999' is no number that can be used here"),
    "text as truth value": ("a: !!bool x", "^'x' is neither true nor false$"),
    "a mapping as number": ("a: !!int {b: c}", "expected a scalar node"),
    "a timestamp": ("a: !!timestamp 2001-99-99", "could not determine a constructor"),
    "a text as timestamp": ("a: !!timestamp x", "could not determine a constructor"),
    "bytes": ("a: !!binary '='", "could not determine a constructor"),
    "an object": ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    "two documents": ("a: 1\n---\nb: 2\n", "expected a single document"),
    "a tab": ("a:\n\t- b", "found character"),
    "a control character": ("a: \x07", "special characters are not allowed"),
    "not UTF-8": (b"a: \xff", "unacceptable character #x00ff"),
    "many values": ("[" + "0," * 10_001 + "]", "more than 10,000 values"),
    "too many bytes": ("#" * (2**18 + 1), "more than 262,144 bytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_yaml_is_one_line(case, tmp_path):
    data, said = BAD[case]
    data = data if isinstance(data, bytes) else data.encode()
    began = time.process_time()
    with pytest.raises(ParseError, match=said) as e:
        parse_yaml(data)
    assert len(str(e.value).splitlines()) == 1
    assert len(str(e.value)) < 250
    assert time.process_time() - began < 5
    if len(data) < 10_000:
        (tmp_path / "filters.yaml").write_bytes(data)
        with pytest.raises(InputError, match=r"filters\.yaml is not YAML"):
            load_settings(tmp_path / "filters.yaml", {})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: 1\nb: [2.5, -3, true, ~, x]\nc: {d: {}}", None),
        ("a: 2001-01-01\nb: 2001-99-99\n", {"a": "2001-01-01", "b": "2001-99-99"}),
        ("a: 2001-01-01 10:00:00", {"a": "2001-01-01 10:00:00"}),
        ("a: 0x1F\nb: 1_000\nc: 1:30\nd: 1.5e+3", {"a": 31, "b": 1000, "c": 90, "d": 1500.0}),
        ("2: a\ntrue: b\nx: c", None),
        ("a: &x 1\nb: 2", {"a": 1, "b": 2}),
    ],
)
def test_plain_yaml_is_read(text, value, tmp_path):
    import yaml

    wanted = yaml.safe_load(text) if value is None else value
    (tmp_path / "a.yaml").write_text(text)
    assert load_yaml(tmp_path / "a.yaml") == wanted
    assert parse_yaml(text.encode("utf-16")) == wanted


@pytest.mark.parametrize(
    "text",
    [
        f"min_aesthetic: 1{'0' * 29}",
        "min_aesthetic: [1]",
        "min_side: 2001-01-01",
        "min_side: true",
        "2: 3",
        "[min_side]",
        "blocked_sources: 1",
    ],
)
def test_filters_of_another_type_are_refused(text, tmp_path):
    (tmp_path / "filters.yaml").write_text(text)
    with pytest.raises(InputError) as e:
        load_settings(tmp_path / "filters.yaml", {})
    assert len(str(e.value).splitlines()) == 1
