"""Test the loader.

The tests check exact resume, disjoint rows of hosts, a new order in every epoch, recaptions, the
range of crops, and refusals.
"""

import itertools

import numpy as np
import pytest
from loaders import loader_of

from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.loading.crops import crop, fit
from data_pipeline.loading.settings import CropSettings
from data_pipeline.records.records import RecordWriter, make_record, open_records

COUNT = 23


def solid(i):
    return encode_png(np.full((10, 14, 3), i, np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write record i as an image of value i with caption "i".

    If i is even, it has the recaption "1000 + i".
    """
    out = tmp_path_factory.mktemp("loader") / "d"
    with RecordWriter(out, shards=3) as writer:
        for i in range(COUNT):
            writer.write(
                make_record(
                    solid(i), str(i), key=f"k{i}", recaption=str(1000 + i) if i % 2 == 0 else ""
                )
            )
    return out


def tokenize(captions):
    assert all(type(c) is str for c in captions)
    return np.array([[int(c), len(c), 1] for c in captions])


def loader(data, **kwargs):
    return loader_of(
        data,
        **{
            "batch_size": 4,
            "image_size": 8,
            "tokenize": tokenize,
            "seed": 0,
            "num_threads": 2,
            **kwargs,
        },
    )


def ids(batches):
    return [int(v) for b in batches for v in b["image"][:, 0, 0, 0]]


def test_a_batch(data):
    batch = next(loader(data))
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((4, 8, 8, 3), "uint8"),
        "tokens": ((4, 3), "int32"),
        "sizes": ((4, 6), "int32"),
    }
    assert list(batch["tokens"][:, 0] % 1000) == ids([batch])
    assert set(next(loader(data, tokenize=None))) == {"image", "sizes"}


@pytest.mark.parametrize("threads", [0, 3])
def test_resume_is_exact(data, threads):
    kwargs = {"zoom": (1.0, 1.5), "flip": True, "recaption_prob": 0.5, "num_threads": threads}
    first = loader(data, **kwargs)
    list(itertools.islice(first, 9))  # into the second epoch
    state = first.get_state()
    rest = list(itertools.islice(first, 9))
    # the number of threads is not part of the state
    again = loader(data, **{**kwargs, "num_threads": 3 - threads})
    again.set_state(state)
    for a, b in zip(rest, itertools.islice(again, 9), strict=True):
        assert all(np.array_equal(a[k], b[k]) for k in a)
    other = list(itertools.islice(loader(data, **kwargs), 9))
    assert any(not np.array_equal(a["image"], b["image"]) for a, b in zip(rest, other, strict=True))


def test_an_epoch_covers_everything_once_and_the_next_is_in_another_order(data):
    stream = loader(data, batch_size=1)
    epochs = [ids(itertools.islice(stream, COUNT)) for _ in range(3)]
    assert all(sorted(e) == list(range(COUNT)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != ids(itertools.islice(loader(data, batch_size=1, seed=1), COUNT))
    plain = ids(itertools.islice(loader(data, batch_size=1, shuffle=False), COUNT))
    assert plain == [int(r["key"][1:]) for r in open_records(data)]


def test_hosts_are_disjoint_and_together_cover_an_epoch(data):
    def host(i, **kwargs):
        return loader(data, batch_size=4, rows=[i], num_epochs=1, **kwargs)

    whole = [ids(host(i, drop_remainder=False)) for i in range(4)]
    assert [len(w) for w in whole] == [6, 6, 6, 5]
    assert sorted(itertools.chain(*whole)) == list(range(COUNT))
    even = [ids(host(i)) for i in range(4)]
    # every host takes as many steps, or the others would wait for ever
    assert [len(e) for e in even] == [5] * 4
    assert len(set(itertools.chain(*even))) == 20
    endless = [ids(itertools.islice(loader(data, batch_size=4, rows=[i]), COUNT)) for i in range(4)]
    assert sorted(itertools.chain(*zip(*endless, strict=True))) == sorted(list(range(COUNT)) * 4)


@pytest.mark.parametrize(
    "split",
    [((0, 1), (2, 3)), ((0, 3), (1, 2)), ((2,), (0, 1, 3)), ((0, 1), (0, 1), (2, 3))],
    ids=str,
)
def test_hosts_read_the_rows_of_the_same_batches(split, data):
    kwargs = {
        "batch_size": 4,
        "zoom": (1.0, 2.0),
        "flip": True,
        "recaption_prob": 0.5,
        "num_threads": 0,
    }
    stream = loader(data, **kwargs)
    alone = list(itertools.islice(stream, 12))  # into the third epoch
    for rows in split:
        mine = loader(data, rows=rows, **kwargs)
        assert all(
            np.array_equal(a[k][list(rows)], b[k])
            for a, b in zip(alone, itertools.islice(mine, 12), strict=True)
            for k in a
        )
    mine = loader(data, rows=split[1], **kwargs)
    mine.set_state(stream.get_state())  # of one host, on a part of several
    assert np.array_equal(next(stream)["image"][list(split[1])], next(mine)["image"])


def test_incomplete_batches(data):
    assert [len(b["image"]) for b in loader(data, num_epochs=1)] == [4] * 5
    assert [len(b["image"]) for b in loader(data, num_epochs=1, drop_remainder=False)] == [
        4
    ] * 5 + [3]
    with pytest.raises(InputError, match="23 records gives less than one batch of 24"):
        loader(data, batch_size=24, num_epochs=1)
    assert len(next(loader(data, batch_size=24, num_epochs=1, drop_remainder=False))["image"]) == 23
    # for ever: an epoch boundary inside the batch
    assert len(next(loader(data, batch_size=50))["image"]) == 50
    last = loader(data, batch_size=24, rows=[22], num_epochs=1, drop_remainder=False, shuffle=False)
    assert ids(last) == [int(open_records(data)[22]["key"][1:])]
    with pytest.raises(InputError, match="23 records gives less than one batch of 24"):
        loader(data, batch_size=24, rows=[23], num_epochs=1, drop_remainder=False)


def test_recaptions_are_chosen_where_there_is_one(data):
    stream = loader(data, batch_size=COUNT, recaption_prob=0.75)
    tokens = np.concatenate([b["tokens"][:, 0] for b in itertools.islice(stream, 30)])
    odd, even = tokens[tokens % 2 == 1], tokens[tokens % 2 == 0]
    assert (odd < 1000).all()
    assert (even >= 1000).mean() == pytest.approx(0.75, abs=0.07)
    by_epoch = [
        set(b["tokens"][:, 0])
        for b in itertools.islice(loader(data, batch_size=COUNT, recaption_prob=0.5), 2)
    ]
    assert by_epoch[0] != by_epoch[1]  # drawn anew each epoch
    for prob in (0, 1):
        tokens = next(loader(data, batch_size=COUNT, recaption_prob=prob))["tokens"][:, 0]
        assert ((tokens >= 1000) == ((tokens % 2 == 0) & bool(prob))).all()


def test_crops_and_zooms_vary_and_stay_in_range(data):
    batches = list(itertools.islice(loader(data, zoom=(1.0, 2.0)), 30))
    sizes = np.concatenate([b["sizes"] for b in batches])
    assert (sizes[:, :2] == (10, 14)).all()
    assert (sizes[:, 4:] == 8).all()
    assert sizes[:, 2].min() == 0
    assert 5 <= sizes[:, 2].max() <= 8
    assert len(np.unique(sizes[:, 3])) > 8
    middle = np.concatenate(
        [b["sizes"] for b in itertools.islice(loader(data, random_crop=False), 6)]
    )
    assert (middle[:, 2:4] == (0, 2)).all()  # resized to 8 × 11


def test_few_zooms_and_a_grid_of_corners():
    row = np.zeros((4, 16, 48, 3), np.uint8)
    row[..., 0] = np.arange(48) * 5  # a column's red tells where it came from
    records = [
        make_record(encode_png(image), "a ramp", key=f"ramp{i}") for i, image in enumerate(row)
    ]
    batches = list(
        itertools.islice(
            loader(records, tokenize=None, zoom=(1.0, 2.0), zoom_levels=2, crop_grid=4), 30
        )
    )
    left = np.concatenate([b["sizes"][:, 3] for b in batches])
    slope = np.concatenate([np.diff(b["image"][:, 4, :, 0].astype(float)).mean(1) for b in batches])
    assert set(np.round(slope)) == {5, 10}  # 16 rows of red 5 apart: as they are, or 8 rows of them
    assert set(left[slope > 7]) == {0, 4, 8, 12, 16}
    assert set(left[slope < 7]) <= set(range(0, 41, 4))
    assert left.max() > 24


@pytest.mark.parametrize("seed", range(4))
def test_each_draw_decides_what_it_is_for(tmp_path, seed):
    """The draws are zoom, across, down, mirror and recaption, in this order.

    A changed order would change the crops of resumed runs.
    """
    noise = np.random.default_rng(9).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    with RecordWriter(tmp_path / "D") as writer:
        writer.write(make_record(encode_png(noise), "plain", key="a", recaption="rich"))
    records = open_records(tmp_path / "D")
    settings = CropSettings(zoom=(1.0, 2.0), flip=True, recaption_prob=0.5)
    made = crop(records, 0, np.random.default_rng(seed), (16, 24), settings=settings)
    share, across, down, mirror, recaption = np.random.default_rng(seed).random(5)
    image, sizes = fit(
        records[0]["image"],
        (16, 24),
        zoom=1.0 + share,
        position=(down, across),
        grid=1,
        mirror=mirror < 0.5,
    )
    np.testing.assert_array_equal(made["image"], image)
    np.testing.assert_array_equal(made["sizes"], sizes)
    assert made["caption"] == ("rich" if recaption < 0.5 else "plain")


def test_a_damaged_image_names_its_record(data):
    records = list(open_records(data))
    for broken in (records[3]["image"][:40], b"", b"\x89PNG\r\n\x1a\n", records[3]["image"][:-30]):
        records[3] = {**records[3], "image": broken}
        with pytest.raises(InputError, match=f"record '{records[3]['key']}' of"):
            list(loader(records, num_epochs=1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"image_size": 0},
        {"rows": [3, 4]},
        {"rows": [1, 0]},
        {"rows": []},
        {"zoom": (0.5, 1.0)},
        {"zoom": (2.0, 1.0)},
        {"zoom_levels": 1},
        {"crop_grid": 0},
        {"recaption_prob": 1.5},
        {"num_epochs": 0},
        {"num_threads": -1},
        {"prefetch": 0},
    ],
    ids=str,
)
def test_arguments_out_of_range(data, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        loader(data, **wrong)


def test_no_data(tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        loader(tmp_path / "none")
    with pytest.raises(InputError, match="count = 0"):
        loader([])
