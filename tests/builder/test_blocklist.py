"""Lists of blocked sources as editors, spreadsheets and other tools write them, and URLs that try
to look like others.
"""

import pytest

from data_pipeline.builder.blocklist import blocker, plain_url, read_blocked
from data_pipeline.io.errors import InputError


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
        ("bad.example\nother.example".encode("utf-16-le"), "it has NULs: UTF-16 without a byte"),
        ("bücher.example".encode("cp1252"), r"it is not UTF-8 \(byte 1\); convert it"),
        (b"\xff\xfeb", "it is not UTF-16"),
        (b"a.example\n*.bad.example\n", r"line 2: '\*.bad.example' is a rule of another kind"),
        (b"\n\n0.0.0.0 bad.example\n", "line 3: '0.0.0.0 bad.example' is a rule"),
        (b"||bad.example^\n", r"line 1: '\|\|bad.example\^' is a rule"),
        (b'"bad.example",\n', "line 1: '\"bad.example\",' is a rule"),
        ("\u200b\n\ufeff\n# none\n".encode(), "is empty"),
    ],
)
def test_lists_that_would_block_nothing_are_refused(data, message, tmp_path):
    (tmp_path / "list").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_blocked(tmp_path / "list")


def test_a_part_of_an_address_with_a_hash_is_no_comment(tmp_path):
    (tmp_path / "list").write_text("bad.example/#adult\n")
    assert blocker(read_blocked(tmp_path / "list"))("http://bad.example/#Adult/1")


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
