"""Test that a training reads a feature cache of a bucket, which is copied to its disk first."""

import dataclasses

import numpy as np
import pytest
from encode_runs import cache_of, config, data, records
from object_servers import BUCKET, environment, serving

from cv3jax.training.feature_cache import open_feature_cache, prepare_of
from cv3jax.training.frozen import frozen_description
from cv3jax.training.inputs import stage_inputs
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.outputs import dataset
from data_pipeline.io.objects.store import Store
from data_pipeline.records import CacheSettings
from data_pipeline.records.feature_cache import open_cache
from data_pipeline.records.remote import open_any

ADDRESS = f"s3://{BUCKET}/caches/art"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a feature cache, which is also at ADDRESS as `cv3jax data encode` publishes it."""
    monkeypatch.setenv("CV3JAX_STORES", str(tmp_path / "stores"))
    folder = cache_of("float16", "bfloat16")
    with serving("s3") as port:
        for name, value in environment("s3", port).items():
            monkeypatch.setenv(name, value)

        def copied(place):
            place.mkdir()
            for path in folder.iterdir():
                (place / path.name).write_bytes(path.read_bytes())
            return {}

        dataset(ADDRESS, copied, [], overwrite=False)
        yield folder


def test_a_feature_cache_of_a_bucket_is_that_of_a_disk(folder):
    here, there, none = (
        config("relay", "data.random_crop=False", f"data.cache={place}")
        for place in (folder, ADDRESS, f"{ADDRESS}_none")
    )
    ours, right = (
        open_feature_cache(one, *frozen_description(one), records()) for one in (there, here)
    )
    assert ours.identity == right.identity
    for i in range(len(right)):
        assert (ours[i]["key"], ours[i]["caption"]) == (right[i]["key"], right[i]["caption"])
        for name in right[i]["latents"]:
            np.testing.assert_array_equal(ours[i]["latents"][name], right[i]["latents"][name])
    assert stage_inputs(there) == stage_inputs(here)  # so a run resumes with either
    with pytest.raises(InputError, match=f"^config.data.cache {ADDRESS}_none: there is no such ob"):
        open_feature_cache(none, *frozen_description(none), records())


def test_records_of_a_bucket_have_a_feature_cache_too(folder, tmp_path, monkeypatch):
    for path in data().iterdir():
        Store(f"s3://{BUCKET}/art").upload(path, path.name)
    remote = open_any(f"s3://{BUCKET}/art", CacheSettings(tmp_path / "shards", 10**7))
    here = config("relay", "data.random_crop=False", f"data.cache={folder}")
    cache = open_cache(folder, remote)
    assert not list((tmp_path / "shards").rglob("*.array_record*"))  # none was fetched for that
    make = dataclasses.replace(prepare_of(here, cache), text=False)
    ours, right = (
        make(each, 3, np.random.default_rng(3), (32, 32)) for each in (remote, records())
    )
    assert ours["caption"] == right["caption"]
    with pytest.raises(InputError, match="where the records have"):
        make([remote[0]] * 4, 3, np.random.default_rng(0), (32, 32))
    monkeypatch.setattr(remote, "lengths", (20,))
    with pytest.raises(InputError, match="was encoded from other records than"):
        open_cache(folder, remote)
