"""Test records that are read from buckets, on servers that speak the stores' protocols."""

import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from loaders import loader_of
from object_servers import served

from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.store import Store
from data_pipeline.loading.mixture import open_datasets
from data_pipeline.records import CacheSettings, remote
from data_pipeline.records.digest import alike, dataset_content
from data_pipeline.records.records import RecordWriter, make_record, open_records
from data_pipeline.records.shard_cache import ABOUT, FOLDER

SHARDS, EACH = 12, 128 * 1024  # bytes of a shard of ten small pictures
SIZES = ((8, 8), (8, 16))


def tokenize(captions):
    return np.array([[int(caption)] for caption in captions])


GIVEN = {"batch_size": 4, "image_size": 8, "seed": 3, "tokenize": tokenize, "window": 4}


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    with served(request.param) as found:
        yield found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "d"
    with RecordWriter(out, shards=SHARDS) as writer:
        for i in range(120):
            image = encode_png(np.full((8, 8 + i % 3 * 4, 3), i, np.uint8))
            writer.write(make_record(image, str(i), key=f"k{i}"))
    return out


@pytest.fixture
def address(bucket, data, tmp_path):
    found = f"{bucket}/{tmp_path.name}/set"
    upload(data, found)
    remote._listed.cache_clear()
    return found


def upload(folder, address):
    store = Store(address)
    for path in folder.iterdir():
        store.upload(path, path.name)


def cache_of(tmp_path, shards=10):
    return CacheSettings(tmp_path / "cache", shards * EACH)


def batches(records, count, **fields):
    loader = loader_of(records, **{**GIVEN, "num_threads": 2, "prefetch": 2, **fields})
    try:
        yield from itertools.islice(loader, count)
    finally:
        loader.close()


@pytest.mark.parametrize("fields", [{}, {"buckets": SIZES, "min_side": 8}])
def test_a_bucket_is_read_as_a_disk_within_the_bounds_of_the_cache(address, data, tmp_path, fields):
    cache = cache_of(tmp_path)
    records = remote.open_any(address, cache)
    both = batches(records, 40, **fields), batches(open_records(data), 40, **fields)
    for ours, right in zip(*both, strict=True):  # of more than an epoch
        assert all(np.array_equal(ours[name], right[name]) for name in right)
        with records._fetching.cache.locked("room"):  # no file gets its name meanwhile
            found = list(cache.directory.rglob("*.array_record-*"))
            assert len(found) * EACH <= cache.size


def test_worker_processes_share_the_cache(address, data, tmp_path):
    records = remote.open_any(address, cache_of(tmp_path))
    both = batches(records, 12, num_workers=2), batches(open_records(data), 12)
    for ours, right in zip(*both, strict=True):
        assert np.array_equal(ours["tokens"], right["tokens"])


def test_shards_are_there_before_the_order_reaches_them(address, tmp_path, monkeypatch):
    records = remote.open_any(address, cache_of(tmp_path, 11))
    late = []
    real = records._fetching.cache.get

    def get(path, size, download, *, ahead=False):
        if not ahead and not path.exists():
            late.append(path.name)
        return real(path, size, download, ahead=ahead)

    monkeypatch.setattr(records._fetching.cache, "get", get)
    for number, _ in enumerate(batches(records, 30, num_threads=0)):
        while records._fetching._running:
            pass
        if number == 0:
            late.clear()  # what the first batch reads was waited for
    assert not late


def test_the_content_is_that_of_a_copy_on_a_disk(address, data, tmp_path):
    cache = cache_of(tmp_path)
    assert alike(dataset_content(address, cache), dataset_content(data))
    names = [path.name for path in cache.directory.rglob("*.array_record-*")]
    assert names == []  # nothing was fetched for it


def test_another_version_of_a_dataset_is_fetched_anew(address, data, tmp_path):
    cache = cache_of(tmp_path)
    records = remote.open_any(address, cache)
    before, sizes = records[0]["caption"], records.beside("sizes.npy").read_bytes()
    other = tmp_path / "other"
    with RecordWriter(other, shards=SHARDS) as writer:
        for i in range(120):
            image = encode_png(np.full((16, 8, 3), i, np.uint8))
            writer.write(make_record(image, str(119 - i), key=f"k{i}"))
    upload(other, address)
    remote._listed.cache_clear()
    again = remote.open_any(address, cache)
    assert (before, again[0]["caption"]) == ("0", "119")
    assert again.beside("sizes.npy").read_bytes() != sizes
    assert records.beside("sizes.npy").read_bytes() == sizes  # this process still reads it


def test_other_objects_at_the_address_make_no_other_version(address, data, tmp_path):
    cache = cache_of(tmp_path)
    records = remote.open_any(address, cache)
    assert records[0]["caption"] == "0"
    for name in ("README.md", "old/sizes.npy", f"old/{records.files[0][0]}"):
        Store(address).upload(data / "features.json", name)
    remote._listed.cache_clear()
    again = remote.open_any(address, cache)
    assert again._fetching.paths == records._fetching.paths
    assert again._fetching.paths[0].exists()


READS = """
import sys, time
from pathlib import Path
from data_pipeline.records import CacheSettings, remote
records = remote.open_any(sys.argv[1], CacheSettings(Path(sys.argv[2]), int(sys.argv[3])))
print(records.beside("sizes.npy"), flush=True)
time.sleep(600)
"""


def test_what_a_live_process_reads_beside_the_shards_stays(address, data, tmp_path):
    cache = cache_of(tmp_path)
    command = [sys.executable, "-c", READS, address, str(cache.directory), str(cache.size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            place = Path(other.stdout.readline().strip())
            Store(address).upload(data / "sizes.npy", "repeats.npy")  # another version
            remote.open_any(address, cache)
            assert place.read_bytes() == (data / "sizes.npy").read_bytes()
        finally:
            other.kill()
    again = remote.open_any(address, cache)
    assert list((cache.directory / FOLDER / ABOUT).iterdir()) == [again._files.folder]
    assert not place.exists()


def test_a_cut_answer_for_a_file_beside_the_shards_is_asked_again(address, tmp_path, monkeypatch):
    real, cut = Store.download, []

    def download(store, name, path):
        real(store, name, path)
        if name not in cut:
            cut.append(name)
            os.truncate(path, 7)

    monkeypatch.setattr(Store, "download", download)
    records = remote.open_any(address, cache_of(tmp_path))
    size = records._files.found["sizes.npy"][0]
    assert records.beside("sizes.npy").stat().st_size == size
    assert cut == ["dataset_info.json", "features.json", "sizes.npy"]


def test_a_dataset_may_be_read_in_part_from_a_bucket(address, data, tmp_path):
    mixture = open_datasets(f"{address}:1,{data}:3", cache_of(tmp_path, SHARDS))
    plain = open_datasets(f"{data}:3", cache_of(tmp_path))
    assert len(mixture) == 2 * len(plain)
    for batch in batches(mixture, 12):
        assert batch["tokens"].shape == (4, 1)


@pytest.mark.parametrize(
    ("shards", "fields", "message"),
    [
        (10, {"window": 0}, r'a global shuffle .* set data.shuffle="windows:64"'),
        (9, {}, r"less than two windows of 4 shards .*give more, or a smaller window"),
        (6, {"rows": [0]}, "less than two windows"),
    ],
)
def test_a_cache_that_is_too_small_is_refused_at_the_start(
    address, tmp_path, shards, fields, message
):
    records = remote.open_any(address, cache_of(tmp_path, shards))
    with pytest.raises(InputError, match=message):
        next(batches(records, 1, **fields))
    list(batches(remote.open_any(address, cache_of(tmp_path, SHARDS)), 2, **fields))


def test_what_is_missing_is_said(address, data, tmp_path):
    cache, store = cache_of(tmp_path), Store(address)

    def refused(message):
        remote._listed.cache_clear()
        with pytest.raises(InputError, match=message) as caught:
            list(batches(remote.open_any(address, cache), 1, min_side=8))
        assert len(str(caught.value).splitlines()) == 1
        upload(data, address)

    with pytest.raises(InputError, match=r"give data\.cache_dir"):
        remote.open_any(address, CacheSettings())
    store.remove(["sizes.npy"])
    refused("has no sizes.npy, which min_side and buckets need")
    store.remove(["features.json"])
    refused("is not a record dataset: it has no features.json")
    store.remove(["records-train.array_record-00003-of-00012"])
    refused("00003-of-00012 is missing; restore the object")
    remote._listed.cache_clear()
    huge = CacheSettings(cache.directory, 10**18)
    with pytest.raises(InputError, match=r"the disk of .* has .* GB for it"):
        remote.open_any(address, huge)


def test_a_shard_that_vanishes_is_an_error_of_its_records(address, tmp_path):
    records = remote.open_any(address, cache_of(tmp_path))
    Store(address).remove([records._fetching.paths[0].name])
    with pytest.raises(InputError, match="00000-of-00012 is no longer there"):
        records[0]
    assert records[11]["caption"]


def test_records_can_be_pickled_for_workers(address, tmp_path):
    records = remote.open_any(address, cache_of(tmp_path))
    again = pickle.loads(pickle.dumps(records))
    assert (again.name, again[5]) == (address, records[5])
    assert os.listdir(records._fetching.paths[0].parent)
