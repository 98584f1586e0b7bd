"""Test shards that would cost their reader all memory, its stack, or minutes.

Of each kind the broken item or the rest of the file is counted and named, and what is before it is
kept. A limit on the memory of the process and an alarm end the test where a bound is missing.
"""

import io
import re
import resource
import signal
import sys

import hostile_parquets
import hostile_tars
import pytest

from data_pipeline.builder.inputs import find_units, read_place, read_unit
from data_pipeline.io.errors import InputError
from data_pipeline.sources import parquet_bounds
from data_pipeline.sources.items import Item, Skip
from data_pipeline.sources.parquet import read_metadata
from data_pipeline.sources.parquet_footer import check_footer
from data_pipeline.sources.tars import read_tar

GIB, MIB = 2**30, 2**20
SECONDS, MEMORY = 30, 2 * GIB  # for one file


@pytest.fixture
def bounded():
    """End a test that takes too long or too much memory."""

    def late(*_):
        raise AssertionError(f"more than {SECONDS} s")

    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before, signal_before = resource.getrlimit(resource.RLIMIT_AS), signal.signal(14, late)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(14, signal_before)
    resource.setrlimit(resource.RLIMIT_AS, before)


# what is not told below is a damaged tar of which 000 and 001 are kept
READ_ON = {
    **dict.fromkeys(
        [kind for kind in hostile_tars.HOSTILE if "sparse" in kind and "map" not in kind],
        "unreadable file",
    ),
    "PAX sparse 1.0, map of a billion": "unreadable file",
    "PAX sparse map of a million": "unreadable file",
    "PAX sparse map that is no number": "unreadable file",
    "PAX name of NULs": "no image",
    "PAX name that is not UTF-8": "damaged text or json",
    "PAX character set of no name": "no caption",
    "a folder with a size": None,
    "a device with a size": None,
    "a kind that nobody knows": None,
    "headers of nothing but links": "linked folder",
    "one name 20,000 times": "no caption",
}


@pytest.mark.parametrize("kind", hostile_tars.HOSTILE)
@pytest.mark.usefixtures("bounded")
def test_tars(kind):
    data = hostile_tars.end(hostile_tars.HOSTILE[kind])
    read = [item for item, _ in read_tar(io.BytesIO(data), "x.tar", "x.tar", len(data))]
    good = [item.key for item in read if isinstance(item, Item)]
    left = [item for item in read if isinstance(item, Skip)]
    assert all(len(skip.key) <= 512 and len(skip.detail) <= 2048 for skip in left)
    assert good[:2] == ["000", "001"]
    if kind in READ_ON:
        assert good[2:] == ["002"]
        assert {skip.reason for skip in left} == {READ_ON[kind]} - {None}
    else:
        assert good[2:] in ([], ["002"])  # the second where the damage is after it
        assert (left[-1].key, left[-1].reason) == ("x.tar", "damaged tar")
        assert ("after 00" in left[-1].detail) or ("after 9: unexpected end" in left[-1].detail)
        assert left[-1].lost


def test_a_name_of_a_long_chain_is_read():
    parts = [hostile_tars.pax(("mtime", 1))] * 14
    long = b"9" * 300 + b".png\0"
    parts += [hostile_tars.member(b"L", long, b"L"), hostile_tars.member(b"K", b"x\0", b"K")]
    data = hostile_tars.end(b"".join(parts) + hostile_tars.member(b"9", b"x"))
    (skip,) = [item for item, _ in read_tar(io.BytesIO(data), "x", "x", len(data))]
    assert (skip.key, skip.reason) == ("9" * 300, "no caption")


def test_many_tiny_members_cost_little():
    data = hostile_tars.tiny(2_000)
    calls = 0

    def count(frame, event, _):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    read = list(read_tar(io.BytesIO(data), "x.tar", "x.tar", len(data)))
    sys.setprofile(None)
    assert len(read) == 2_000
    assert calls < 100 * 2_000  # of functions, which does not depend on how busy the machine is


# a file of which all rows are read, though some are useless; the others are damaged
WHOLE = {
    "captions by shared beginnings": 0,
    "a map of 100,000": 1,
    "two images of one name": 2,
    "three images of one name": 2,
    "an image and a text of one name": 2,
    "an image and a list of one name": 2,
    "two keys of one name": 2,
    "two captions of one name": 2,
    "a name with a dot": 2,
    "a name of a megabyte": 2,
    "an empty name": 2,
    "1,000 columns": 1,
    "a metadata value of 2 MB": 1,
}


@pytest.fixture
def lower(monkeypatch):
    """Lower the limits, so that files which exceed them are made quickly."""
    for name, most in (("MAX_PAGE", 2**24), ("MAX_LISTS", 2**20), ("MIN_DECODED", 2**26)):
        assert getattr(parquet_bounds, name) > most
        monkeypatch.setattr(parquet_bounds, name, most)


@pytest.mark.parametrize("kind", hostile_parquets.HOSTILE)
@pytest.mark.usefixtures("bounded", "lower")
def test_parquets(kind, tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(hostile_parquets.HOSTILE[kind]())
    (unit,) = find_units([str(path)], None)
    read = list(read_unit(unit))
    good = [item for item in read if isinstance(item, Item)]
    for item in good[:1]:
        assert read_place(item.place) == item.image
    if kind in WHOLE:
        assert len(good) == WHOLE[kind]
        assert "damaged parquet file" not in [getattr(item, "reason", "") for item in read]
        assert len(list(read_metadata(str(path), "key"))) == len(read)
    else:
        assert (read[-1].key, read[-1].reason) == (str(path), "damaged parquet file")
        assert re.search(r"[a-z]{3} [a-z]", read[-1].detail.removeprefix("after row"))
        assert "\n" not in read[-1].detail
        assert len(read) < 64


@pytest.mark.usefixtures("bounded")
def test_a_dictionary_of_50_megabytes_within_the_real_limits(tmp_path):
    path = tmp_path / "x.parquet"
    many = hostile_parquets.repeated("a" * 50 * MIB, 64)
    path.write_bytes(hostile_parquets.written({**hostile_parquets.rows(64), "caption": many}))
    (unit,) = find_units([str(path)], None)
    *read, last = read_unit(unit)
    assert [skip.reason for skip in read] == ["caption too long"] * 4
    assert re.search(r"it decodes to more than 268,\d+,\d+ bytes, the limit", last.detail)


def test_what_is_lost_of_metadata_is_one_line(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(hostile_parquets.HOSTILE["columns 200,000 deep"]())
    said = r"^--metadata .*x.parquet is damaged \(it has 200,002 columns .* restore the file"
    with pytest.raises(InputError, match=said):
        list(read_metadata(str(path), "key"))


def test_pages_tell_what_a_dictionary_hides(tmp_path):
    """Its footer gives as few bytes for a text that is in every row as for one that is in one."""
    data = hostile_parquets.written(
        {
            **hostile_parquets.rows(64),
            "caption": hostile_parquets.repeated("a" * 20 * MIB, 64),
            "url": [f"http://{i}" for i in range(64)],
        }
    )
    from pyarrow import parquet

    file, schema = io.BytesIO(data), parquet.ParquetFile(io.BytesIO(data)).schema
    size, (group,) = check_footer(file)
    budget = parquet_bounds.Budget(size)
    many = parquet_bounds.batch_rows(file, schema, group, ["key", "url", "png"], "png", budget)
    few = parquet_bounds.batch_rows(file, schema, group, ["key", "caption"], "png", budget)
    assert (many, few) == (64, 8)  # 8 × 20 MiB are within 256 MiB
