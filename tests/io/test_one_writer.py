"""Test that one output path has only one writer at a time, for all commands."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

from cv3jax.precompute import staging
from data_pipeline.builder.build import _claimed
from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.io.staging import appearing, holding
from data_pipeline.recaption.output import SameShards
from data_pipeline.recaption.triplets import Triplets
from data_pipeline.records.records import RecordWriter, make_record, open_records

IDENTITY = {"records": {"lengths": [1]}}


@contextlib.contextmanager
def _encode(out: Path):
    staging.begin(out, IDENTITY, overwrite=False)
    yield


WRITERS = {
    "pack and scenes": RecordWriter,
    "recaption": lambda out: SameShards(out, [1]),
    "convert": appearing,
    "build": lambda out: _claimed(str(out)),
    "encode": _encode,
}


def record(key):
    return make_record(encode_png(np.zeros((8, 8, 3), np.uint8)), "a caption", key=key)


@pytest.mark.parametrize("first", [name for name in WRITERS if name != "encode"])
@pytest.mark.parametrize("second", WRITERS)
def test_a_second_writer_is_refused(first, second, tmp_path):
    """Encoding is done by many processes; they keep all other commands out, see below."""
    out = tmp_path / "out"
    with contextlib.suppress(KeyError), WRITERS[first](out):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=rf"out.* is in use by process {os.getpid()} on "):
            WRITERS[second](out).__enter__()
        assert sorted(tmp_path.rglob("*")) == before
        raise KeyError  # so that nothing is published


# a build writes into another place, and looks at this one when it publishes
@pytest.mark.parametrize("second", ["pack and scenes", "recaption", "convert"])
def test_what_others_have_begun_to_encode_is_in_the_way(second, tmp_path):
    out = tmp_path / "out"
    with _encode(out):
        (staging.partial(out) / ".part_0_of_1").mkdir()
        before = sorted(tmp_path.rglob("*"))
        with (
            pytest.raises(InputError, match="which this command did not write"),
            WRITERS[second](out),
        ):
            pass
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["pack and scenes", "recaption", "convert"])
def test_what_was_published_meanwhile_stays(name, tmp_path):
    """The second writer looked before the first one finished, and takes the lock later."""
    second = WRITERS[name](tmp_path / "out")
    with RecordWriter(tmp_path / "out") as first:
        first.write(record("first"))
    with pytest.raises(InputError, match=r"already holds records|exists already"), second:
        pass
    assert [each["key"] for each in open_records(tmp_path / "out")] == ["first"]
    assert os.listdir(tmp_path) == ["out"]
    assert not list((tmp_path / "out").glob(".*"))


def test_two_exports_of_triplets(tmp_path):
    triplets = [Triplets(tmp_path / "a.json", "ask") for _ in range(2)]
    with triplets[0].writing():
        with pytest.raises(InputError, match=r"a_images.* is in use by"), triplets[1].writing():
            pass
        triplets[0].write(record("k"), "new")
    with pytest.raises(InputError, match="exists already"), triplets[1].writing():
        pass
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a_images"]
    assert os.listdir(tmp_path / "a_images") == ["k.png"]


def test_who_has_renamed_the_place_leaves_the_next_one_alone(tmp_path):
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    first.enter_context(holding(tmp_path / "out")).rename(tmp_path / "out")
    place = second.enter_context(holding(tmp_path / "out"))
    (place / "mine").write_text("kept")
    first.close()
    with pytest.raises(InputError, match="is in use by"), holding(tmp_path / "out"):
        pass
    assert sorted(os.listdir(place)) == [".lock", "mine"]
    second.close()
    assert os.listdir(tmp_path) == ["out"]
