"""Test mixtures of datasets by weight, and batches of one size each.

The tests check shares, whole epochs, resumption, and the same order on every host.
"""

import itertools
import math

import numpy as np
import pytest
from loaders import loader_of

from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.loading import bucket_sizes, buckets, mixture, selections
from data_pipeline.loading.mixture import Mixture
from data_pipeline.records.records import RecordWriter, make_record, open_records
from data_pipeline.records.sizes import NAME, read_sizes, sizes_of, write_sizes

COUNTS = {"a": 23, "b": 8}
# height, width of record i: number i % 5
SHAPES = ((16, 16), (16, 15), (16, 30), (16, 32), (32, 16))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write datasets a and b of shapes i % 5.

    Record i of a has the value i, that of b 100 more.
    """
    folder = tmp_path_factory.mktemp("mixture")
    for name, count in COUNTS.items():
        with RecordWriter(folder / name, shards=3) as writer:
            for i in range(count):
                value = i + 100 * (name == "b")
                image = np.full((*SHAPES[i % 5], 3), value, np.uint8)
                writer.write(make_record(encode_png(image), str(value), key=f"{name}{i}"))
    return folder


def loader(records, **kwargs):
    return loader_of(
        records,
        **{
            "batch_size": 4,
            "image_size": 16,
            "tokenize": None,
            "seed": 0,
            "num_threads": 0,
            **kwargs,
        },
    )


def both(data, a=3.0, b=1.0):
    return Mixture([open_records(data / "a"), open_records(data / "b")], [a, b], "both")


def values(batches):
    return [int(v) for b in batches for v in b["image"][:, 8, 8, 0]]


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[k], b[k]) for k in a)


def test_each_dataset_has_its_share_and_epochs_of_its_own(data):
    drawn = values(itertools.islice(loader(both(data)), 100))
    a, b = [v for v in drawn if v < 100], [v for v in drawn if v >= 100]
    assert (len(a), len(b)) == (300, 100)
    for start in range(0, 400, 40):
        assert abs(sum(v >= 100 for v in drawn[start : start + 40]) - 10) <= 1
    for own, first, count in ((a, 0, 23), (b, 100, 8)):
        epochs = [own[i : i + count] for i in range(0, len(own) - count, count)]
        assert all(sorted(epoch) == list(range(first, first + count)) for epoch in epochs)
        assert epochs[0] != epochs[1]
    others = values(itertools.islice(loader(both(data, 1.0, 7.0)), 100))
    assert [v for v in others if v < 100] == a[:50]  # a's own order whatever its share
    assert loader(both(data)).get_state() == {"next_index": 0}


def test_a_mixture_resumes_on_any_hosts(data):
    kwargs = {"zoom": (1.0, 1.5), "flip": True}
    whole = loader(both(data), **kwargs)
    list(itertools.islice(whole, 17))
    state = whole.get_state()
    rest = list(itertools.islice(whole, 20))
    again = loader(both(data), **kwargs)
    again.set_state(state)
    same(rest, itertools.islice(again, 20))
    for rows in ((0, 3), (1, 2)):
        host = loader(both(data), rows=rows, **kwargs)
        host.set_state(state)
        same([{k: v[list(rows)] for k, v in b.items()} for b in rest], itertools.islice(host, 20))


def test_an_epoch_of_a_mixture_has_every_record_once(data):
    mixed = both(data)
    assert [mixed[i]["key"] for i in (0, 23, -1)] == [
        mixed.parts[0][0]["key"],
        mixed.parts[1][0]["key"],
        mixed.parts[1][7]["key"],
    ]
    assert sorted(values(loader(mixed, num_epochs=1, drop_remainder=False))) == sorted(
        [*range(23), *range(100, 108)]
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", [("a", 1)]),
        ("a:3,b:1", [("a", 3), ("b", 1)]),
        ("a, b:.5", [("a", 1), ("b", 0.5)]),
        ("gs://x/y", [("gs://x/y", 1)]),
        ("gs://x/y:2,/z", [("gs://x/y", 2), ("/z", 1)]),
    ],
)
def test_what_a_path_says(text, parts, tmp_path, monkeypatch):
    assert mixture.parse(text) == parts
    monkeypatch.chdir(tmp_path)
    (tmp_path / text).mkdir(parents=True)
    assert mixture.parse(text) == [(text, 1)]  # a directory of that very name


@pytest.mark.parametrize("text", ["", "a,", "a:0,b", "a:-1", "a:inf", "a:nan", ":3", "a:1,b:2,a:3"])
def test_a_path_that_says_nothing_is_refused(text):
    with pytest.raises(InputError, match=r"dataset|twice"):
        mixture.parse(text)


SIZES = ((16, 16), (16, 32), (32, 16))


def sized(data, records=None, **kwargs):
    return loader(records or data / "a", **{"buckets": SIZES, **kwargs})


def test_a_batch_has_one_size_and_no_record_is_lost(data):
    drawn = list(itertools.islice(sized(data), 60))
    shapes = [b["image"].shape for b in drawn]
    assert {shape[1:3] for shape in shapes} == set(SIZES) == set(sized(data).sizes)
    assert all(shape[0] == 4 for shape in shapes)
    for size in SIZES:
        members = [
            i
            for i in range(23)
            if selections.assign(np.array([SHAPES[i % 5]]), SIZES)[0] == SIZES.index(size)
        ]
        own = values(b for b in drawn if b["image"].shape[1:3] == size)
        for start in range(0, len(own) - len(members), len(members)):
            # epochs of their own, nothing missed or twice
            assert sorted(own[start : start + len(members)]) == members
        assert len(own) / 240 == pytest.approx(len(members) / 23, abs=0.02)
        assert all(
            (b["sizes"][:, 4:] == size).all() for b in drawn if b["image"].shape[1:3] == size
        )
    first = drawn[: math.ceil(23 / 4) + len(SIZES)]
    assert len(set(values(first))) >= 23 - sum(
        len([b for b in range(23) if SHAPES[b % 5] == s]) % 4 for s in SIZES
    )


def test_buckets_resume_and_hosts_agree(data):
    kwargs = {"flip": True, "zoom": (1.0, 1.5), "records": both(data)}
    whole = sized(data, **kwargs)
    list(itertools.islice(whole, 7))
    state, rest = whole.get_state(), list(itertools.islice(whole, 20))
    assert state == {"next_index": 7}
    for rows in ((0, 1, 2, 3), (0, 3), (1, 2)):
        host = sized(data, rows=rows, **kwargs)
        host.set_state(state)
        same([{k: v[list(rows)] for k, v in b.items()} for b in rest], itertools.islice(host, 20))
    share = np.mean(
        [v >= 100 for v in values(itertools.islice(sized(data, records=both(data)), 100))]
    )
    assert share == pytest.approx(0.25, abs=0.02)


def test_a_bucket_with_less_than_a_batch_is_merged_into_the_nearest(data):
    assert buckets.merged([10, 3, 0, 2], ((16, 16), (16, 32), (8, 32), (32, 16)), 4) == [0, 0, 2, 0]
    assert buckets.merged([1, 3, 2], ((16, 16), (16, 32), (16, 64)), 100) == [1, 1, 1]
    assert buckets.merged([5, 5], SIZES[:2], 5) == [0, 1]
    merged = sized(data, batch_size=8)
    assert merged.sizes == ((16, 16), (16, 32))  # 4 or 5 upright ones are less than a batch
    assert {b["image"].shape[1:3] for b in itertools.islice(merged, 20)} == set(merged.sizes)


def test_the_list_of_buckets():
    around = bucket_sizes.parse("64", 512)
    assert (512, 512) in around
    assert len({h / w for h, w in around}) == len(around) >= 7
    assert all(
        h % 64 == 0 == w % 64 and 0.5 <= h / w <= 2 and 0.85 < h * w / 512**2 < 1.15
        for h, w in around
    )
    assert {(w, h) for h, w in around} == set(around)
    assert bucket_sizes.parse("", 512) == ()
    with pytest.raises(InputError, match="too many"):
        bucket_sizes.parse("8", 4096)
    assert bucket_sizes.parse("512x512, 448x576", 512) == ((512, 512), (448, 576))
    nearest = selections.assign(
        np.array([[512, 512], [448, 577], [1000, 1300], [1300, 1000], [10, 100]]),
        ((512, 512), (448, 576)),
    )
    assert list(nearest) == [0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    "text", ["512", "x", "512x", "0", "4x4", "512x512,256x256", "9000x512", "1024", "512x512;1x1"]
)
def test_buckets_that_cannot_be_are_refused(text):
    with pytest.raises(InputError, match="buckets"):
        bucket_sizes.parse(text, 511)


def test_sizes_are_stored_beside_the_records_and_made_if_missing(data, tmp_path):
    records = open_records(data / "a")
    right = np.array([(r["height"], r["width"]) for r in records])
    assert np.array_equal(read_sizes(data / "a", 23), right)
    assert right.dtype.kind == "i"
    made_anew = data / "a" / NAME
    kept = made_anew.read_bytes()
    made_anew.unlink()
    assert np.array_equal(sizes_of(records), right)
    assert made_anew.read_bytes() == kept
    for wrong in (b"", kept[:-8], b"x" * 300):
        made_anew.write_bytes(wrong)
        with pytest.raises(InputError, match=NAME):
            sized(data)
    write_sizes(data / "a", right[:-1])
    with pytest.raises(InputError, match="of 23 records"):
        sized(data)
    write_sizes(data / "a", right)
    assert made_anew.read_bytes() == kept


def test_buckets_have_no_common_epochs(data):
    with pytest.raises(InputError, match="num_epochs"):
        sized(data, num_epochs=1)
