"""Test that a recipe's data may be in a bucket: the checks, the content and the batches."""

import itertools

import hollow_networks as hn
import numpy as np
import pytest
from object_servers import BUCKET, environment, serving

from cv3jax import recipes
from cv3jax.commands.inputs import check_stage_inputs
from cv3jax.training import data, heldout, inputs
from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.store import Store
from data_pipeline.records.digest import alike
from data_pipeline.records.records import RecordWriter, make_record

ADDRESS = f"s3://{BUCKET}/set"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write a dataset of six shards, and the same in a bucket."""
    out = tmp_path_factory.mktemp("bucket") / "d"
    with RecordWriter(out, shards=6) as writer:
        for i in range(60):
            image = encode_png(np.full((40, 40, 3), i, np.uint8))
            writer.write(make_record(image, f"picture {i}", key=f"k{i}"))
    with serving("s3") as port, pytest.MonkeyPatch.context() as patch:
        for name, value in environment("s3", port).items():
            patch.setenv(name, value)
        for path in out.iterdir():
            Store(ADDRESS).upload(path, path.name)
        yield out


def settings(path, *more):
    fields = ("data.shuffle=windows:2", "batch.size=4", "batch.per_device=4", *more)
    return hn.settings("scenes_base", f"data.path={path}", *fields)


def test_a_stage_s_batches_are_those_of_a_copy_on_a_disk(folder, tmp_path):
    cached = settings(ADDRESS, f"data.cache_dir={tmp_path}/cache", "data.cache_gb=0.01")
    check_stage_inputs(cached)
    plan = hn.plan_of(cached).mesh
    streams = [
        data.loader(one, data.open_data(one.data), None, plan) for one in (cached, settings(folder))
    ]
    for ours, right in itertools.islice(zip(*streams, strict=True), 20):
        np.testing.assert_array_equal(ours["image"], right["image"])
    for stream in streams:
        stream.close()
    contents = [inputs.data_content(one.data) for one in (cached, settings(folder))]
    assert alike(*contents)  # so a run resumes on the copy


def test_what_a_bucket_needs_is_said_before_the_libraries_are_loaded(folder, tmp_path):
    with pytest.raises(InputError, match=r"give --config\.data\.cache_dir"):
        check_stage_inputs(settings(ADDRESS))


def test_held_out_records_are_read_from_a_bucket(folder, tmp_path):
    cache = (f"data.cache_dir={tmp_path}/cache", "data.cache_gb=0.01")
    fields = ("train.eval_every=1", "train.eval_records=9")
    stored = settings(folder, f"train.eval_data={ADDRESS}", *fields, *cache)
    check_stage_inputs(stored)
    ours, right = (
        heldout.open_held_out(one)
        for one in (stored, settings(folder, f"train.eval_data={folder}", *fields))
    )
    assert [each["key"] for each in ours] == [each["key"] for each in right]
    assert len(ours) == 9
    with pytest.raises(InputError, match=f"{ADDRESS} has the records of config.data.path"):
        heldout.check_apart(stored, {"data.path": inputs.data_content(stored.data)})
    with pytest.raises(InputError, match=r"config\.train\.eval_data: .*give --config\.data\.cache"):
        check_stage_inputs(settings(folder, f"train.eval_data={ADDRESS}", *fields))
    none = settings(folder, f"train.eval_data={ADDRESS}_none", *fields, *cache)
    with pytest.raises(InputError, match=r"eval_data: .*_none is not a record dataset"):
        heldout.open_held_out(none)


@pytest.mark.parametrize("path", ["s3://b/a", "gs://b/a", "a:3,s3://b/a:1"])
def test_a_recipe_takes_the_addresses_of_data(path):
    recipes.load("scenes_vae:tiny", [f"--config.data.path={path}"])
    with pytest.raises(InputError, match="must be a path on this machine"):
        recipes.load("scenes_vae:tiny", [f"--config.data.path={path},hdfs://b/a"])
    for field in ("data.cache", "train.eval_data"):
        recipes.load("scenes_base:tiny", [f"--config.{field}=gs://b/a"])
    with pytest.raises(InputError, match="must be a path on this machine"):
        recipes.load("scenes_vae:tiny", ["--config.data.cache_dir=s3://b/a"])
