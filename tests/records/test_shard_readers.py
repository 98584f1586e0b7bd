"""Test many shards under a low limit of open files, and errors of the machine.

No record may count as damaged because of them.
"""

import builtins
import errno
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from loaders import loader_of

from data_pipeline.images.decode import encode_png
from data_pipeline.io import open_files
from data_pipeline.io.errors import InputError
from data_pipeline.loading.damaged import readable
from data_pipeline.records import feature_cache, reading, shard_readers, sizes
from data_pipeline.records.array_records import shard_name
from data_pipeline.records.records import NAME, RecordWriter, make_record, open_records
from data_pipeline.records.shard_readers import OpenReaders

SHARDS, LIMIT, KINDS = 3000, 256, 50


def tokenize(captions):
    return np.array([[int(caption)] for caption in captions])


OPTIONS = {"batch_size": 4, "image_size": 8, "seed": 1, "tokenize": tokenize}


def write(out: Path, count: int, shards: int) -> Path:
    with RecordWriter(out, shards=shards) as writer:
        for i in range(count):
            image = encode_png(np.full((8, 8, 3), i, np.uint8))
            writer.write(make_record(image, str(i), key=f"k{i}"))
    return out


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Write a dataset of 3,000 shards of one record each.

    A shard has many names, because 64 KB is the smallest size of one.
    """
    out = write(tmp_path_factory.mktemp("many") / "d", KINDS, KINDS)
    shards = [out / shard_name(NAME, i, KINDS) for i in range(KINDS)]
    for i in range(SHARDS):
        os.link(shards[i % KINDS], out / shard_name(NAME, i, SHARDS))
    for shard in shards:
        shard.unlink()
    info = json.loads((out / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["1"] * SHARDS
    (out / "dataset_info.json").write_text(json.dumps(info))
    (out / sizes.NAME).unlink()
    sizes.write_sizes(out, [(8, 8)] * SHARDS)
    return out


PROGRAM = """
import collections, itertools, json, os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
sys.path[:0] = {path}
from loaders import loader_of
from test_shard_readers import OPTIONS
from data_pipeline.loading.mixture import Mixture
from data_pipeline.records.records import open_records
records = open_records({data!r})
both = Mixture([records, open_records({data!r})], [1.0, 1.0], "both")
data = loader_of(
    both, **OPTIONS, num_threads=8, max_damaged=10_000, num_epochs=1, window={window}
)
came, most = collections.Counter(), 0
for batch in data:
    came.update(batch["tokens"][:, 0].tolist())
    most = max(most, len(os.listdir("/proc/self/fd")))
print(json.dumps([sum(came.values()), sorted(set(came.values())), len(data.damaged), most]))
"""


@pytest.mark.parametrize("window", [0, 64])
def test_thousands_of_shards_are_streamed_whole_under_a_low_limit(many, window):
    path = [str(Path(__file__).parent), *sys.path]
    program = PROGRAM.format(limit=LIMIT, path=path, data=str(many), window=window)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    count, times, damaged, most = json.loads(done.stdout)
    assert count == 2 * SHARDS  # an epoch of both
    assert times == [2 * SHARDS // KINDS]
    assert damaged == 0
    assert most < LIMIT
    assert "is skipped" not in done.stderr


def test_a_process_raises_its_own_limit_as_far_as_it_may(monkeypatch):
    limits = {"now": (1024, 4096)}
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(open_files.resource, "setrlimit", lambda _, new: limits.update(now=new))
    for before, room, after in (
        ((1024, 4096), 2048, (4096, 4096)),
        ((1024, 1 << 20), 4096, (8192, 1 << 20)),
        ((256, 256), 128, (256, 256)),
        ((1 << 20, 1 << 20), 4096, (1 << 20, 1 << 20)),
        ((open_files.resource.RLIM_INFINITY,) * 2, 4096, (open_files.resource.RLIM_INFINITY,) * 2),
        ((1, 1), 1, (1, 1)),
    ):
        limits["now"] = before
        assert (open_files.room(), limits["now"]) == (room, after)


def test_more_shards_than_may_be_open_are_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda _: (256, 256))
    with pytest.raises(InputError, match=r"shards = 129: .* of open files allows 128 .*ulimit -n"):
        RecordWriter(tmp_path / "d", shards=129)
    RecordWriter(tmp_path / "d", shards=128)


def test_those_used_last_stay_open(tmp_path):
    folder = write(tmp_path / "d", 6, 6)
    paths = [folder / shard_name(NAME, i, 6) for i in range(6)]
    open_ones = OpenReaders(3)
    first = [open_ones.get(0, i, paths[i]) for i in (0, 1, 2)]
    assert open_ones.get(0, 0, paths[0]) is first[0]
    open_ones.get(0, 3, paths[3])  # in the place of 1
    assert len(open_ones) == 3
    assert open_ones.get(0, 0, paths[0]) is first[0]
    assert open_ones.get(0, 1, paths[1]) is not first[1]
    assert open_ones.get(1, 0, paths[5]) is not first[0]  # another dataset's
    open_ones.forget(0)
    open_ones.get(1, 0, paths[5])
    assert len(open_ones) == 1


def test_an_evicted_reader_serves_who_has_it(tmp_path, monkeypatch):
    folder = write(tmp_path / "d", 40, 8)
    monkeypatch.setattr(shard_readers, "_OPENED", [OpenReaders(1)])
    source = open_records(folder)
    expected, got = [record["key"] for record in source], {}

    def read(thread):
        order = np.random.default_rng(thread).permutation(40)
        got[thread] = {int(i): source[int(i)]["key"] for i in order}

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(got[i] == dict(enumerate(expected)) for i in range(8))


def test_the_files_of_a_dataset_that_is_gone_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_readers, "_OPENED", [OpenReaders(100)])
    source = open_records(write(tmp_path / "d", 5, 5))
    assert len(list(source)) == 5
    assert len(shard_readers._OPENED[0]) == 5
    del source
    other = open_records(write(tmp_path / "e", 2, 2))
    assert len(list(other)) == 2
    assert len(shard_readers._OPENED[0]) == 2


# what riegeli says, and the error that it is
FAILURES = {
    "pread() failed: Input/output error; reading x; at byte 12": errno.EIO,
    "open() failed: Stale file handle; opening x": errno.ESTALE,
    "open() failed: Too many open files; opening x": errno.EMFILE,
    "pread() failed: No space left on device; reading x": errno.ENOSPC,
    "pread() failed: Transport endpoint is not connected; reading x": errno.ENOTCONN,
    "open() failed: Connection timed out; opening x": errno.ETIMEDOUT,
    "pread() failed: Cannot allocate memory; reading x": errno.ENOMEM,
}


class Failing:
    """Raise one given error in every read."""

    def __init__(self, said: str):
        self.said = said

    def ok(self) -> bool:
        return not self.said.startswith("open()")

    def read(self, _):
        raise RuntimeError(self.said)

    seek = read


@pytest.mark.parametrize(("said", "code"), FAILURES.items())
def test_what_the_machine_fails_at_is_never_called_damaged(said, code, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_readers, "_OPENED", [OpenReaders(100)])
    source = open_records(write(tmp_path / "d", 8, 2))
    monkeypatch.setattr(shard_readers, "ArrayRecordReader", lambda *_, **__: Failing(said))
    data = loader_of(source, **OPTIONS, num_threads=0, max_damaged=1000)
    for read in (lambda: source[0], lambda: next(readable(source)), lambda: next(iter(data))):
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            read()
        assert caught.value.errno == code
        assert caught.value.filename.startswith(str(tmp_path / "d" / "records-train"))
    assert not data.damaged
    monkeypatch.undo()
    assert len(list(itertools.islice(data, 3))) == 3  # and it continues when the machine recovers


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.EDQUOT])
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", sizes.NAME, "encoded.json"])
def test_what_stands_beside_the_shards_is_not_called_damaged_either(
    name, code, tmp_path, monkeypatch
):
    folder = write(tmp_path / "d", 3, 1)
    (folder / "encoded.json").write_text('{"format": 1}')

    def failing(original):
        def fail(path, *args, **kwargs):
            if isinstance(path, str | Path) and Path(path).name == name:
                raise OSError(code, os.strerror(code), str(path))
            return original(path, *args, **kwargs)

        return fail

    monkeypatch.setattr(Path, "open", failing(Path.open))
    monkeypatch.setattr(builtins, "open", failing(open))
    monkeypatch.setattr(sizes.np, "load", failing(np.load))

    def read():
        reading._read_json(folder, "dataset_info.json")
        reading._read_json(folder, "features.json")
        sizes.read_sizes(folder, 3)
        feature_cache.read_identity(folder)

    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        read()
    assert (caught.value.errno, caught.value.filename) == (code, str(folder / name))


def test_a_full_table_of_files_closes_others_first(tmp_path, monkeypatch):
    folder = write(tmp_path / "d", 8, 8)
    paths = [folder / shard_name(NAME, i, 8) for i in range(8)]
    open_ones, left = OpenReaders(100), [5]
    opened = shard_readers.open_reader

    def open_reader(path):
        if len(open_ones) >= left[0]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return opened(path)

    monkeypatch.setattr(shard_readers, "open_reader", open_reader)
    for i in range(8):
        open_ones.get(0, i, paths[i])
    assert len(open_ones) <= 5
    left[0] = 0  # not even one
    with pytest.raises(OSError, match="Too many open files"):
        open_ones.get(1, 0, paths[0])
