"""Test that records occur in an epoch as often as repeats.npy says, and what is refused."""

import collections
import itertools

import numpy as np
import pytest
from loaders import loader_of

from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.loading.mixture import Mixture
from data_pipeline.records.digest import alike, dataset_content
from data_pipeline.records.records import RecordWriter, make_record, open_records
from data_pipeline.records.repeats import NAME, repeated, write_repeats

TIMES = (1, 3, 1, 2)
EPOCH = {0: 1, 1: 3, 2: 1, 3: 2}


@pytest.fixture
def data(tmp_path):
    with RecordWriter(tmp_path / "data", shards=1) as writer:
        for i in range(len(TIMES)):
            shape = (16, 16, 3) if i else (8, 16, 3)
            image = encode_png(np.full(shape, 10 * i, np.uint8))
            writer.write(make_record(image, str(i), key=str(i)))
        write_repeats(writer.staging, TIMES)
    return tmp_path / "data"


def seen(records, count, **settings) -> list[int]:
    given = {"batch_size": 7, "image_size": 8, "tokenize": None, "seed": 0, "num_threads": 0}
    batches = itertools.islice(loader_of(records, **given | settings), count)
    return [int(value) // 10 for batch in batches for value in batch["image"][:, 4, 4, 0]]


def test_an_epoch_has_each_record_so_often(data):
    first, second = seen(data, 1), seen(data, 2)[7:]
    assert collections.Counter(first) == collections.Counter(second) == EPOCH
    assert first != second
    assert collections.Counter(seen(data, 1, num_epochs=1)) == EPOCH


def test_of_the_records_that_are_large_enough_and_in_buckets_and_mixtures(data):
    assert collections.Counter(seen(data, 1, min_side=16, batch_size=6)) == {1: 3, 2: 1, 3: 2}
    by_size = seen(data, 14, buckets=((8, 8), (8, 16)), batch_size=1)
    assert collections.Counter(by_size) == {i: 2 * n for i, n in EPOCH.items()}
    both = Mixture([open_records(data), open_records(data)], [1.0, 1.0], "both")
    assert collections.Counter(seen(both, 2)) == {i: 2 * n for i, n in EPOCH.items()}


def test_copies_do_not_follow_one_another_so_that_damage_is_passed_over(data):
    assert list(repeated(open_records(data), range(4))) == [0, 1, 2, 3, 1, 3, 1]


def test_other_repeats_are_another_dataset(data):
    before = dataset_content(data)
    write_repeats(data, (1, 3, 1, 1))
    assert not alike(before, dataset_content(data))
    (data / NAME).unlink()
    assert not alike(before, dataset_content(data))
    assert collections.Counter(seen(data, 1, batch_size=4)) == dict.fromkeys(range(4), 1)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.ones(5, np.int32), "not the repeats of 4 records"),
        (np.ones(4, np.float32), "not the repeats of 4 records"),
        (np.array([1, 0, 1, 1], np.int32), r"1\.\.1,000,000 each"),
        (np.array([1, 10**6 + 1, 1, 1], np.int32), r"1\.\.1,000,000 each"),
    ],
)
def test_repeats_of_other_records_are_refused(value, said, data):
    np.save(data / NAME, value)
    with pytest.raises(InputError, match=rf"repeats\.npy holds .*{said}"):
        seen(data, 1)


def test_a_damaged_file_is_refused(data):
    (data / NAME).write_bytes(b"no array")
    with pytest.raises(InputError, match=r"repeats\.npy is damaged"):
        seen(data, 1)
    np.save(data / NAME, np.array([object()] * 4), allow_pickle=True)
    with pytest.raises(InputError, match=r"repeats\.npy is damaged"):
        seen(data, 1)
