"""Test the join of several rows of metadata for one image.

A field may come from any row. If rows disagree, the value counts that makes the filter drop the
image.
"""

import pyarrow
import pytest
from build_inputs import build, jpeg, sample
from image_shards import tar
from pyarrow import parquet

from data_pipeline.builder.join import combine, key_of, merge
from data_pipeline.builder.measure import Facts


def row(url="", unreadable=None, **scores):
    return {"url": url, "scores": scores, "unreadable": unreadable or {}}


OWN = Facts(0, "k", url="http://own", scores={"punsafe": 0.2, "NSFW": "SFW"}, sha256="ab")


@pytest.mark.parametrize(
    ("rows", "scores"),
    [
        ([row(punsafe=0.1), row(pwatermark=0.9)], {"punsafe": 0.1, "pwatermark": 0.9}),
        ([row(punsafe=0.1), row(punsafe=0.9)], {"punsafe": 0.9}),
        ([row(punsafe=0.1), row(PUNSAFE=0.9)], {"punsafe": 0.9, "PUNSAFE": 0.9}),
        ([row(aesthetic=6.0), row(aesthetic=4.0)], {"aesthetic": 4.0}),
        ([row(NSFW="NSFW"), row(NSFW="UNLIKELY")], {"NSFW": "NSFW,UNLIKELY"}),
        ([row(x=1), row(x=2)], {"x": 1}),
    ],
)
def test_rows_of_one_key(rows, scores):
    assert combine(rows)["scores"] == combine(rows[::-1])["scores"] == scores


def test_an_images_own_fields_win_and_what_nobody_can_read_stays_unreadable():
    facts = Facts(0, "k", scores={"PUNSAFE": 0.2}, unreadable={"nsfw": "own"}, sha256="ab")
    other = row("http://a", {"unsafe": "theirs", "aesthetic": "theirs"}, punsafe=0.9)
    *_, (_, joined) = merge("k", {"rows": [(0, facts)], "metadata": [other]})
    assert joined.url == "http://a"
    assert joined.unreadable == {"nsfw": "own", "aesthetic": "theirs"}
    assert joined.scores["PUNSAFE"] == 0.2


@pytest.mark.parametrize(
    ("rows", "url", "unreadable"),
    [
        ([row(unreadable={"unsafe": "wrong"}), row(punsafe=0.1)], "", ["unsafe"]),
        ([row(unreadable={"nsfw": "wrong"}), row(NSFW="UNLIKELY")], "", ["nsfw"]),
        ([row(unreadable={"url": "wrong"}), row("http://a")], "http://a", ["url"]),
        ([row("http://a"), row("http://bad.example")], "http://a", ["url"]),
        ([row("http://a/1"), row(), row("http://a/2"), row("http://a/1")], "http://a/1", ["url"]),
        ([row("http://a"), row("HTTP://A"), row(), row("http://%61")], "HTTP://A", []),
    ],
)
def test_no_row_hides_what_is_wrong_with_another(rows, url, unreadable):
    for given in (rows, rows[::-1]):
        facts = Facts(0, "k", scores={}, sha256="ab")
        *_, (_, joined) = merge("k", {"rows": [(0, facts)], "metadata": given})
        assert (joined.url, list(joined.unreadable)) == (url, unreadable)
        *_, (_, joined) = merge("k", {"rows": [(0, OWN)], "metadata": given})
        assert not joined.unreadable


@pytest.mark.parametrize(
    ("on", "key"), [("Key", "k"), ("URL", "http://a"), ("id", "12"), ("x", "")]
)
def test_what_rows_are_joined_on(on, key):
    assert key_of(Facts(0, "k", url="http://a", scores={"ID": 12.0}), on) == key


def test_two_tables_of_metadata_through_a_build(tmp_path):
    """LAION has its scores in several tables; each of them filters."""
    tar(tmp_path / "a.tar", [part for i in range(4) for part in sample(i)])
    for name, column, values in (
        ("m1", "punsafe", [0.9, 0.1, 0.1, 0.1]),
        ("m2", "PWATERMARK", ["0.1", "0.9", "0.1", None]),
    ):
        table = pyarrow.table({"KEY": [f"{i:03d}" for i in range(4)], column: values})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    flags = ("--input", tmp_path / "a.tar", "--metadata", tmp_path / "m*.parquet")
    records, report = build(
        tmp_path / "D", *flags, "--max-unsafe", 0.5, "--max-watermark", 0.5, "--join-on", "Key"
    )
    assert sorted(records) == ["002", "003"]
    assert report["dropped"] == {"unsafe": 1, "watermark": 1}
    (fields,) = report["fields"].values()
    assert fields["watermark"] == {"read": 3, "missing": 1, "unreadable": 0}
    assert jpeg(2) == records["002"]["image"]
