"""Test the digest of a dataset's content: independent of its path, changed by any change."""

import os
import shutil

import pytest
from image_shards import encoded

from data_pipeline.io.errors import InputError
from data_pipeline.records.digest import alike, dataset_content
from data_pipeline.records.records import RecordWriter, make_record


def dataset(out, captions, shards=2, first=0):
    with RecordWriter(out, shards=shards) as writer:
        for i, caption in enumerate(captions):
            writer.write(make_record(encoded(first + i), caption, key=f"k{i}"))
    return out


NAMES = ["a red star", "a blue ring", "a green box"]


def test_a_copy_elsewhere_read_and_touched_has_the_same_content(tmp_path):
    here = dataset(tmp_path / "here", NAMES)
    there = shutil.copytree(here, tmp_path / "there [moved] *")
    for path in there.iterdir():
        os.utime(path, (1, 1))
    (there / "sizes.npy").unlink()  # which is made anew where it is missing
    assert dataset_content(there) == dataset_content(here) == dataset_content(str(here))


@pytest.mark.parametrize(
    "other",
    [
        lambda out: dataset(out, [*NAMES[:2], "a green box, seen from above"]),
        lambda out: dataset(out, NAMES[:2]),
        lambda out: dataset(out, NAMES, shards=3),
        lambda out: dataset(out, NAMES, first=7),
        lambda out: dataset(out, [*NAMES[:2], "a green fox"]),
    ],
    ids=["a longer caption", "a record less", "other shards", "other images", "a caption"],
)
def test_another_dataset_has_another_content(other, tmp_path):
    ours = dataset_content(dataset(tmp_path / "ours", NAMES))
    assert not alike(ours, dataset_content(other(tmp_path / "other")))


def test_where_there_is_none_it_says_so(tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        dataset_content(tmp_path / "none")


def test_a_damaged_record_is_none_of_another_dataset(tmp_path):
    here = dataset(tmp_path / "here", NAMES)
    before = dataset_content(here)
    shard = sorted(here.glob("*.array_record-*"))[0]
    data = bytearray(shard.read_bytes())
    data[data.index(b"PNG") + 40] ^= 0xFF
    shard.write_bytes(bytes(data))
    after = dataset_content(here)
    assert None in after["sampled"]
    assert alike(before, after)
    assert alike(after, before)
    assert not alike(after, dataset_content(dataset(tmp_path / "other", ["x", "y", "z"])))
