"""Test that pictures too small for a stage are left out of its order.

Only their sizes decide.
"""

import itertools

import numpy as np
import pytest
from loaders import loader_of

from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.loading.mixture import Mixture
from data_pipeline.loading.usable import usable
from data_pipeline.records.records import RecordWriter, make_record, open_records
from data_pipeline.records.sizes import NAME

# height, width of record i; 0, 3 and 5 have a shorter side of 16 or more
SHAPES = ((16, 16), (15, 40), (40, 15), (17, 16), (8, 8), (16, 33))
LARGE = [0, 3, 5]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("usable") / "data"
    with RecordWriter(folder, shards=1) as writer:
        for i, shape in enumerate(SHAPES):
            image = np.full((*shape, 3), 10 * i, np.uint8)
            writer.write(make_record(encode_png(image), str(i), key=str(i)))
    return folder


def seen(records, count, **settings) -> list[int]:
    """Return the numbers of the records in the first batches."""
    given = {"batch_size": 3, "image_size": 16, "tokenize": None, "seed": 0, "num_threads": 0}
    batches = itertools.islice(loader_of(records, **given | settings), count)
    return [int(value) // 10 for batch in batches for value in batch["image"][:, 4, 4, 0]]


def test_all_are_drawn_or_the_large_ones_alone(data):
    assert sorted(seen(data, 2)) == [0, 1, 2, 3, 4, 5]
    assert sorted(seen(data, 2, min_side=16)) == sorted(2 * LARGE)
    assert sorted(seen(data, 1, min_side=16, num_epochs=1)) == LARGE
    assert seen(data, 2, min_side=1) == seen(data, 2)


def test_in_buckets_and_in_mixtures_too(data):
    drawn = seen(data, 8, min_side=16, buckets=((16, 16), (16, 32)), batch_size=1)
    assert set(drawn) == set(LARGE)
    both = Mixture([open_records(data), open_records(data)], [2.0, 1.0], "both")
    assert set(seen(both, 6, min_side=16)) == set(LARGE)


def test_what_is_left_out_is_said_once(data, capsys, monkeypatch):
    monkeypatch.setattr("data_pipeline.loading.usable._said", set())
    for _ in range(2):
        assert list(usable(open_records(data), 16)) == LARGE
    said = capsys.readouterr().err
    assert said.count(f"{data}: 3 of 6 pictures are left out") == 1
    assert "min_side = 16" in said
    assert list(usable(open_records(data), 8)) == [0, 1, 2, 3, 4, 5]
    assert list(usable(open_records(data), 0)) == [0, 1, 2, 3, 4, 5]
    assert capsys.readouterr().err == ""


def test_a_dataset_without_a_large_one_is_refused(data):
    with pytest.raises(
        InputError, match=r"all of its 6 .* min_side = 18 pixels .the largest has 16"
    ):
        usable(open_records(data), 18)
    with pytest.raises(InputError, match="3 records gives less than one batch of 4"):
        seen(data, 1, min_side=16, batch_size=4, num_epochs=1)


def test_records_without_a_file_of_sizes_are_read_once(data, tmp_path):
    (data / NAME).rename(tmp_path / NAME)
    assert list(usable(open_records(data), 16)) == LARGE
    assert (data / NAME).exists()
