"""Test which caption of a record a step sees: the recaption or one of the source's."""

import collections
import functools
import json

import numpy as np
import pytest
from image_shards import encoded

from data_pipeline.io.errors import InputError
from data_pipeline.loading.cached import CachedExamples
from data_pipeline.loading.crops import choose_caption, crop
from data_pipeline.loading.settings import CropSettings
from data_pipeline.records.records import captions, make_record

SCORES = {"captions": ["two", "three"]}


def record(recaption="", scores=SCORES):
    return make_record(encoded(1), "one", key="k", recaption=recaption, scores=scores)


@pytest.mark.parametrize(
    ("made", "prob", "several", "shares"),
    [
        (record(), 0.95, True, {"one": 1, "two": 1, "three": 1}),
        (record("new"), 0.25, True, {"new": 1, "one": 1, "two": 1, "three": 1}),
        (record("new"), 1.0, True, {"new": 1}),
        (record("new"), 0.0, True, {"one": 1, "two": 1, "three": 1}),
        (record("new"), 0.5, False, {"new": 1, "one": 1}),
        (record(scores={"captions": []}), 0.95, True, {"one": 1}),
        (record(scores={"captions": 3}), 0.95, True, {"one": 1}),
    ],
)
def test_each_caption_as_often_as_the_others(made, prob, several, shares):
    draws = np.arange(0.5, 1200) / 1200
    found = collections.Counter(choose_caption(made, d, prob, several=several) for d in draws)
    assert found.keys() == shares.keys()
    for text, count in found.items():
        assert abs(count / 1200 - shares[text] / sum(shares.values())) < 2 / 1200


def test_a_crop_takes_any_of_them_and_one_draw_as_before():
    with_others, without = record(), record(scores={})
    cut = functools.partial(crop, settings=CropSettings())
    found = set()
    for seed in range(40):
        several, alone = (
            cut([made], 0, np.random.default_rng(seed), (8, 8)) for made in (with_others, without)
        )
        assert np.array_equal(several["image"], alone["image"])
        assert alone["caption"] == "one"
        found.add(several["caption"])
        first = cut([with_others], 0, np.random.default_rng(seed), (8, 8), several=False)
        assert first["caption"] == "one"
    assert found == {"one", "two", "three"}


class _Cache(list):
    name = "the feature cache"


@pytest.mark.parametrize("text", [False, True])
def test_features_are_of_the_first_caption_and_beside_latents_any_is_taken(text):
    made = record()
    encoded_one = {
        **{name: made[name] for name in ("key", "sha256", "caption", "recaption")},
        "sizes": np.zeros(6, np.int32),
        "latents": {"mean": np.zeros(1)},
        "text": {"text": np.ones(1)},
        "recaption_text": {},
    }
    take = CachedExamples(_Cache([encoded_one]), ("mean",), text, None, 0.95)
    found = [take([made], 0, np.random.default_rng(seed), (8, 8)) for seed in range(40)]
    if text:
        assert all(example["text"][0] == 1 for example in found)
    else:
        assert {example["caption"] for example in found} == {"one", "two", "three"}


def test_scores_that_are_no_json():
    with pytest.raises(InputError, match="record 'k': its scores are not a JSON object"):
        captions({**record(), "scores": '{"captions": '})
    assert captions({**record(), "scores": json.dumps({"x": '"captions"'})}) == ["one"]
