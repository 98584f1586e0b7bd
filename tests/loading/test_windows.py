"""Test the order within windows of shards: each record once, bounded windows, exact resuming."""

import collections
import itertools

import numpy as np
import pytest
from loaders import loader_of

from data_pipeline.loading import selections
from data_pipeline.loading.bucket_sizes import around
from data_pipeline.loading.mixture import Mixture
from data_pipeline.loading.windows import WindowOrder, shuffled

SIZES = ((8, 8), (8, 16))


class Shards(list):
    """Records of (height, width), in shards of these lengths."""

    def __init__(self, lengths, draws=None):
        draws = draws or np.random.default_rng(0)
        shapes = draws.choice([(8, 8), (8, 16), (4, 9)], sum(lengths)).tolist()
        super().__init__({"height": height, "width": width} for height, width in shapes)
        self.lengths = tuple(lengths)


def number(source, index, rng, size):
    return {"index": np.int64(index), "draw": np.float64(rng.random())}


def drawn(records, batches, start=0, **fields) -> dict[str, np.ndarray]:
    """Return the numbers and draws of so many batches of a loader with small windows."""
    given = {"batch_size": 6, "image_size": 8, "seed": 3, "num_threads": 0, "window": 3}
    loader = loader_of(records, prepare=number, **{**given, **fields})
    loader.set_state({"next_index": start})
    found = list(itertools.islice(loader, batches))
    return {name: np.stack([batch[name] for batch in found]) for name in ("index", "draw")}


def random_order(draws) -> WindowOrder:
    counts = draws.integers(0, 12, draws.integers(1, 30))
    counts[draws.integers(len(counts))] += 1
    return WindowOrder(
        counts, int(draws.integers(1, 12)), int(draws.integers(100)), (), int(draws.integers(1, 20))
    )


@pytest.mark.parametrize("trial", range(40))
def test_each_record_comes_once_an_epoch_and_a_window_has_few_shards(trial):
    draws = np.random.default_rng(trial)
    order = random_order(draws)
    assert max(order.counts) > 0
    rows = np.flatnonzero(draws.random(order.rows) < 0.5)
    for epoch in range(3):
        start = epoch * len(order)
        places = [order.place(start + i) for i in range(len(order))]
        assert len({place[:2] for place in places}) == len(order)
        assert all(0 <= place.record < order.counts[place.shard] for place in places)
        windows = [place.window for place in places]
        assert windows == sorted(windows)
        shards = collections.defaultdict(set)
        for position, place in enumerate(places, start):
            shards[place.window].add(place.shard)
            assert order.start(place.window) <= position < order.start(place.window + 1)
            if len(rows) and position % order.rows in rows:  # what those rows have to fetch
                assert place.shard in order.shards(place.window, rows)
        for window, read in shards.items():
            given = order.shards(window)
            assert {shard for shard in given if order.counts[shard]} == read
            assert len(given) <= order.window


def test_the_order_is_new_in_each_epoch_and_with_each_seed():
    counts = np.full(20, 30)

    def epoch(number, seed=0, label=()):
        order = WindowOrder(counts, 5, seed, label, 4)
        return [order.place(number * len(order) + i)[:2] for i in range(len(order))]

    first = epoch(0)
    assert first == epoch(0)
    assert len({tuple(x) for x in (first, epoch(1), epoch(0, 1), epoch(0, 0, (8, 16)))}) == 4
    # all buckets of a dataset go through its shards in the same order
    shards = [WindowOrder(counts, 5, 0, label, 4).shards(2) for label in ((), (8, 16))]
    assert shards[0] == shards[1]


def test_the_draws_are_of_the_seed():
    records = Shards([10] * 6)
    first, again, other = (drawn(records, 4, seed=seed)["draw"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not (first == other).any()


def test_a_host_with_few_of_the_rows_reads_few_of_the_shards():
    order = WindowOrder(np.full(640, 100), 64, 0, (), 128)
    for window in range(10):
        read = [order.shards(window, range(host * 16, host * 16 + 16)) for host in range(8)]
        assert max(map(len, read)) <= 64 // 8 + 1
        assert sorted(set(itertools.chain(*read))) == sorted(order.shards(window))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 20])
def test_the_permutation_has_no_preference(count):
    seen = np.zeros((count, count))
    for key in range(2000):
        moved = [shuffled(i, count, key * 0x9E3779B97F4A7C15 % 2**64) for i in range(count)]
        assert sorted(moved) == list(range(count))
        seen[range(count), moved] += 1
    assert np.abs(seen - 2000 / count).max() < 6 * np.sqrt(2000 / count)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("one", {}),
        ("one", {"buckets": SIZES}),
        ("one", {"buckets": SIZES, "min_side": 8}),
        ("mixture", {}),
        ("mixture", {"buckets": SIZES}),
    ],
    ids=str,
)
def test_two_hosts_go_on_where_three_stopped(kind, fields):
    """They read the same batches at five random positions, with the same draws."""
    records = Shards([5, 0, 9, 1, 30, 12, 7, 7, 2, 11])
    if kind == "mixture":
        records = Mixture([records, Shards([8, 8, 8])], [3.0, 1.0], "both")
    whole = drawn(records, 60, **fields)
    for start in np.random.default_rng(1).integers(0, 50, 5).tolist():
        for count in (3, 2):
            each = 6 // count
            hosts = [
                drawn(records, 10, start, rows=range(i * each, i * each + each), **fields)
                for i in range(count)
            ]
            for name, values in whole.items():
                joined = np.concatenate([host[name] for host in hosts], axis=1)
                np.testing.assert_array_equal(joined, values[start : start + 10])


def test_a_loader_reads_every_record_once_an_epoch_window_after_window():
    records = Shards([4] * 12)
    first, second = drawn(records, 16)["index"].reshape(2, -1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(48))
    assert first.tolist() != second.tolist()
    for part in first.reshape(4, -1):  # of three shards each
        assert len(set((part // 4).tolist())) == 3
    once = drawn(records, 8, num_epochs=1, drop_remainder=False)["index"]
    assert once.ravel().tolist() == first.tolist()
    # buckets have epochs of their own, whose windows have the same shards
    sized = drawn(records, 32, buckets=SIZES)["index"].ravel()
    assert set(collections.Counter(sized.tolist()).values()) <= {3, 4, 5}


def test_repeated_records_come_as_often_as_they_should(tmp_path):
    from data_pipeline.loading.damaged import Cell
    from data_pipeline.loading.order import Windows, epochs

    indices = np.array([0, 1, 2, 3, 4, 5, 1, 4, 4])  # all once, then the copies
    records = Shards([2, 2, 2])
    stream = epochs(
        Cell(0, records, indices), 0, shuffle=True, windows=Windows(1, 0, 1, (0,), 8), count=1
    )
    picks = [stream[i] for i in range(9)]
    found = [int(pick.cell.indices[pick.place]) for pick in picks]
    assert sorted(found) == sorted(indices.tolist())
    shards = [index // 2 for index in found]
    assert [shard for shard, _ in itertools.groupby(shards)] == list(dict.fromkeys(shards))


@pytest.mark.parametrize("buckets", [around(512, 64), around(1024, 64), SIZES, ((8, 8),)])
def test_buckets_are_assigned_by_the_nearest_logarithm(buckets):
    sides = np.arange(1, 300)
    shapes = np.stack(np.meshgrid(sides, sides), -1).reshape(-1, 2).astype(np.int32)
    ratios = np.log([height / width for height, width in buckets])
    order = np.argsort(ratios)
    edges = (ratios[order][1:] + ratios[order][:-1]) / 2
    right = order[np.searchsorted(edges, np.log(shapes[:, 0] / shapes[:, 1]))]
    np.testing.assert_array_equal(selections.assign(shapes, buckets), right)


def test_a_selection_is_the_list_of_its_records(monkeypatch):
    monkeypatch.setattr(selections, "PIECE", 7)
    monkeypatch.setattr(selections, "KEPT", 9)  # pieces are made again and again
    lengths, draws = [5, 0, 30, 1, 14], np.random.default_rng(0)
    shapes = draws.integers(4, 20, (50, 2)).astype(np.int32)
    choice = selections.Choice(SIZES, 6)
    found = selections.count(selections.Sizes(shapes, 50), lengths, choice)
    numbers = choice(shapes)
    assert found.largest == shapes.min(axis=1).max()
    for buckets in ((0,), (1,), (0, 1)):
        right = np.flatnonzero(np.isin(numbers, buckets))
        selected = selections.Selected(found, buckets)
        assert [selected[i] for i in draws.permutation(len(selected)).tolist()]
        assert list(selected) == right.tolist() == np.asarray(selected).tolist()
        shard = np.repeat(np.arange(5), lengths)
        assert (
            selected.in_shards(lengths).tolist() == np.bincount(shard[right], minlength=5).tolist()
        )
        with pytest.raises(IndexError):
            selected[len(selected)]
