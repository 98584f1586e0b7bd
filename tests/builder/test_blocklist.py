"""Test lists of blocked sources in the forms that other programs write.

URLs that imitate other URLs are tested too.
"""

import pytest

from data_pipeline.builder.blocklist import blocker, plain_url, read_blocked
from data_pipeline.io.errors import InputError

OTHER_LISTS = (
    '["bad.example","other.example"]',
    "['bad.example']",
    "- bad.example",
    "bad.example,spam",
    "https://bad.example;spam",
    "DOMAIN-SUFFIX,bad.example",
    "bad.example\tspam",
    "bad.example CNAME .",
    'local-zone: "bad.example" static',
    "address=/bad.example/",
    "^bad[.]example$",
    r"/bad\.example/",
    "(bad|other).example",
    "<bad.example>",
    "`bad.example`",
    '{"url":"bad.example"}',
    "! Title: a list",
)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfbad.example\nother.example",
        "bad.example\r\nother.example\r\n".encode("utf-16"),
        "\ufeffbad.example\nother.example".encode("utf-16-be"),
        "bad.example\nother.example".encode("utf-32"),
        b"bad.example\rother.example\r",
        b"\n  bad.example  # of the paper\n\t\n# a comment\nother.example #2\n",
        "\u200bBad.Example\u200b\n\ufeffother.example\0".encode(),
    ],
)
def test_a_list_however_it_was_written(data, tmp_path):
    (tmp_path / "list").write_bytes(data)
    assert read_blocked(tmp_path / "list") == ("bad.example", "other.example")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "bad.example\nother.example".encode("utf-16-le"),
            "it contains NULs and may be UTF-16 without a byte",
        ),
        ("bücher.example".encode("cp1252"), r"it is not UTF-8 \(byte 1\); convert it"),
        (b"\xff\xfeb", "it is not UTF-16"),
        (
            b"a.example\n*.bad.example\n",
            r"line 2: '\*.bad.example' is not part of a URL but a rule of another kind",
        ),
        (b"\n\n0.0.0.0 bad.example\n", "line 3: '0.0.0.0 bad.example' is not part of a URL"),
        (b"||bad.example^\n", r"line 1: '\|\|bad.example\^' is not part of a URL"),
        (b'"bad.example",\n', "line 1: '\"bad.example\",' is not part of a URL"),
        *(
            (f"a.example\n{line}\n".encode(), "line 2: .* is not part of a URL")
            for line in OTHER_LISTS
        ),
        ("\u200b\n\ufeff\n# none\n".encode(), "is empty"),
    ],
)
def test_lists_that_would_block_nothing_are_refused(data, message, tmp_path):
    (tmp_path / "list").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_blocked(tmp_path / "list")


@pytest.mark.parametrize("line", ["a" * 2001, "\ufdfa" * 200, "a" + "\u0316\u0301" * 10**6])
def test_a_line_that_is_or_becomes_too_long_is_refused(line, tmp_path):
    # NFKC makes U+FDFA into 18 characters, and sorts marks in quadratic time
    (tmp_path / "list").write_text(f"bad.example\n{line}\n")
    with pytest.raises(InputError, match=r"list, line 2: .* has more than 2,000 characters"):
        read_blocked(tmp_path / "list")


def test_a_label_that_is_too_long_for_punycode_stays():
    assert plain_url("xn--bcher-kva.example") == "bücher.example"
    assert plain_url(f"xn--{'a' * 10**6}-kva") == f"xn--{'a' * 10**6}-kva"


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ("bad.example/#adult", "http://bad.example/#Adult/1"),
        ("https://bad.example/a,b;c?d=[1]&e=x%7Cy", None),
        ("stock%20pictures", "http://a.example/Stock%20Pictures/1"),
        ("user:word@bad.example:80/~a/(b)!", None),
        ("2001:db8::1", "http://[2001:DB8::1]/1"),
    ],
)
def test_a_part_of_an_address_is_taken_as_it_is(line, url, tmp_path):
    (tmp_path / "list").write_text(line + "\n")
    assert blocker(read_blocked(tmp_path / "list"))(url or f"{line}/1")


@pytest.mark.parametrize(
    "url",
    [
        "http://bad\u200b.example/",
        "http://b\u00adad.example/",
        "http://bad\u3002example/",
        "http://bad\uff61example/",
        "http://ba\nd.exa\tmple/",
        "http://bad%E3%80%82example/",
        "http://x/" + "x" * 5000 + "?from=bad.example",
    ],
)
def test_urls_that_hide_where_they_are_from(url):
    assert blocker((plain_url("bad.example"),))(url)
