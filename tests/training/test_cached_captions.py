"""Test that a record of several captions uses the first one if text features are cached.

The feature cache has only the features of that one.
"""

import types

import numpy as np
from image_shards import encoded

from cv3jax.training.data_settings import DataSettings
from cv3jax.training.feature_cache import prepare_of
from data_pipeline.records.records import make_record

DATA = DataSettings(
    image_size=8,
    zoom=(1.0, 1.0),
    zoom_levels=0,
    crop_grid=1,
    random_crop=True,
    flip=False,
    threads=0,
)


class FeatureCache(list):
    def __init__(self, examples):
        super().__init__(examples)
        self.name = "the feature cache"
        self.identity = {"latents": None, "text": {"shape": [1, 1], "dtype": "float32"}}


def test_pixels_beside_text_features():
    record = make_record(encoded(1), "one", key="k", scores={"captions": ["two", "three"]})
    features = {
        **{name: record[name] for name in ("key", "sha256", "caption", "recaption")},
        "latents": {},
        "text": {"text": np.ones((1, 1), np.float32)},
        "recaption_text": {},
    }
    prepare = prepare_of(
        types.SimpleNamespace(data=DATA, relay=False, masked=False), FeatureCache([features])
    )
    for seed in range(20):
        example = prepare([record], 0, np.random.default_rng(seed), (8, 8))
        assert sorted(example) == ["image", "sizes", "text"]
