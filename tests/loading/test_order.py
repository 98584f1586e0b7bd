"""Test what determines the order of records and the draws of an example.

Each of seed, dataset, bucket, epoch and place changes them, and nothing else does.
"""

import itertools

import numpy as np
import pytest
from loaders import loader_of

from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.loading.cached import CachedExamples
from data_pipeline.loading.crops import crop
from data_pipeline.loading.damaged import Cell
from data_pipeline.loading.mixture import Mixture
from data_pipeline.loading.order import mixed
from data_pipeline.loading.settings import CropSettings
from data_pipeline.records.records import make_record

COUNT = 40
SHAPES = ((16, 16), (16, 32))
RECORDS = [{"height": SHAPES[i % 2][0], "width": SHAPES[i % 2][1]} for i in range(COUNT)]


def order(seed=0, part=0, label=()) -> list[int]:
    """Return the places of an epoch of a cell."""
    cell = Cell(part, range(COUNT), range(COUNT))
    stream = mixed([(cell, 1.0)], seed, shuffle=True, label=label)
    return [stream[i].place for i in range(COUNT)]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"part": 1}, {"label": (16, 32)}, {"label": (32, 16)}], ids=str
)
def test_a_stream_s_order_goes_by_seed_dataset_and_bucket(change):
    assert order() == order()
    assert order(**change) == order(**change)
    assert sorted(order(**change)) == list(range(COUNT))
    assert order(**change) != order()


def examples(batches: int, records=RECORDS, damaged=(), **fields) -> dict:
    """Return {records' numbers [N], draws [N, 5]} of a loader whose examples are its draws.

    Records that are `damaged` are found to be so after the draws.
    """

    def probe(source, index, rng, size):
        draws = rng.random(5)
        if index in damaged:
            raise InputError(f"record {index}")
        return {"index": np.int64(index), "draws": draws}

    given = {"batch_size": 20, "image_size": 16, "seed": 0, "num_threads": 0, **fields}
    found = list(itertools.islice(loader_of(records, prepare=probe, **given), batches))
    return {name: np.concatenate([batch[name] for batch in found]) for name in ("index", "draws")}


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"records": Mixture([RECORDS, RECORDS[:20]], [1.0, 1.0], "both")},
        {"buckets": SHAPES},
    ],
    ids=["one", "mixture", "buckets"],
)
def test_orders_and_draws_are_of_the_seed_and_new_in_each_epoch(kind):
    first, again, other = (examples(6, seed=seed, **kind) for seed in (0, 0, 1))
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
        assert not np.array_equal(values, other[name])
    # no draw comes twice, neither at another place nor in the next epoch nor of another seed
    drawn = np.concatenate([first["draws"], other["draws"]])
    assert len(np.unique(drawn)) == drawn.size
    assert abs(drawn.mean() - 0.5) < 5 * np.sqrt(1 / 12 / drawn.size)


def test_what_stands_in_for_a_damaged_record_has_its_draws():
    """This also holds if the damage is found after the draws, as in an image's last rows."""
    damaged = (3, 4, 30)
    whole, passing = examples(4), examples(4, damaged=damaged, max_damaged=3)
    np.testing.assert_array_equal(passing["draws"], whole["draws"])
    stand_in = {3: 5, 4: 5, 30: 31}
    expected = [stand_in.get(index, index) for index in whole["index"].tolist()]
    assert passing["index"].tolist() == expected


def test_the_caption_of_a_cached_example_is_chosen_by_the_draw_of_the_crop_s():
    """It is the last of five draws, as for pixels.

    So a run with a feature cache has the captions of the run without one.
    """
    image = encode_png(np.zeros((16, 16, 3), np.uint8))
    record = make_record(image, "plain", key="a", recaption="rich")
    encoded = {name: record[name] for name in ("key", "sha256", "caption", "recaption")}
    encoded |= {"sizes": np.zeros(6, np.int32), "latents": {}}
    settings = CropSettings(recaption_prob=0.5)
    examples = CachedExamples([encoded], (), text=False, image=None, recaption_prob=0.5)
    chosen = []
    for seed in range(20):
        with_pixels = crop([record], 0, np.random.default_rng(seed), (16, 16), settings=settings)
        without = examples([record], 0, np.random.default_rng(seed), (16, 16))
        assert without["caption"] == with_pixels["caption"]
        chosen.append(without["caption"])
    assert set(chosen) == {"plain", "rich"}
