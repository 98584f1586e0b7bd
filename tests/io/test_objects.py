"""Directories and leases in buckets, on servers that speak the stores' protocols."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from object_servers import served

from data_pipeline.io.errors import InputError
from data_pipeline.io.objects import fetching, snapshots
from data_pipeline.io.objects.lease import NAME, Lease
from data_pipeline.io.objects.mirror import mirrored
from data_pipeline.io.objects.reading import local
from data_pipeline.io.objects.store import LostError, Store, address_of

OTHER = b'{"process": 1, "host": "far", "boot": "b", "since": "then", "beats": %d}'


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    with served(request.param) as found:
        yield found


def written(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_an_address_is_known_with_one_slash_and_with_two():
    assert address_of("s3:/b/run") == address_of("s3://b/run/") == "s3://b/run"
    assert address_of("runs/s3") is None


def test_an_object_is_replaced_only_where_nobody_else_has(bucket):
    store = Store(f"{bucket}/replace")
    first = store.replace("x", b"1", None)
    with pytest.raises(LostError):
        store.replace("x", b"2", None)
    second = store.replace("x", b"3", first)
    with pytest.raises(LostError):
        store.replace("x", b"4", first)
    assert store.read("x") == (b"3", second)


def test_what_no_tree_names_is_never_read_and_is_removed(bucket, tmp_path):
    store = Store(f"{bucket}/tree")
    work = written(tmp_path / "work", a="one", b="two")
    before = snapshots.publish(store, work, snapshots.whole(work), None)
    stray = written(tmp_path / "stray", c="half")
    store.upload(stray / "c", f"{snapshots.DATA}/20260101-000000-0a1b2c/c")  # a killed upload
    theirs = {"data/c", f"{snapshots.DATA}/c"}
    for name in theirs:
        store.upload(stray / "c", name)
    assert set(fetching.fetch(store, tmp_path / "read")[0]) == {"a", "b"}
    (work / "b").write_text("three")
    after = snapshots.publish(store, work, snapshots.whole(work), before)
    assert after[0]["a"] == before[0]["a"]  # by reference
    own = {place for _, _, place in after[0].values()}
    assert set(store.sizes("")) == own | theirs | {snapshots.NAME}
    with pytest.raises(LostError):
        snapshots.publish(store, work, snapshots.whole(work), before)


def test_a_cut_object_is_refused(bucket, tmp_path):
    store, work = Store(f"{bucket}/cut"), written(tmp_path / "work", a="whole")
    files, _ = snapshots.publish(store, work, snapshots.whole(work), None)
    (tmp_path / "short").write_text("who")
    store.upload(tmp_path / "short", files["a"][2])
    with pytest.raises(InputError, match=r"not as it was published \(3 of 5 bytes"):
        fetching.fetch(store, tmp_path / "read")


def test_a_checkpoint_that_is_being_removed_is_left_out(tmp_path):
    step = written(tmp_path / "checkpoints" / "4", x="12")
    assert snapshots.whole(tmp_path) == {}
    (step / "manifest.json").write_text('{"files": {"x": [2, "h"]}}')
    assert snapshots.whole(tmp_path)["checkpoints/4/x"] == "h"
    (step / "x").unlink()
    assert snapshots.whole(tmp_path) == {}


def test_a_second_run_is_refused_and_a_dead_one_is_followed(bucket):
    store = Store(f"{bucket}/lease")
    lease = Lease(store, "--workdir", 3)
    with pytest.raises(InputError, match=r"in use by process \d+ on .* since 20"):
        Lease(store, "--workdir", 3)
    lease.release()
    code = (
        "import os, sys\nfrom data_pipeline.io.objects.lease import Lease\n"
        "from data_pipeline.io.objects.store import Store\n"
        "Lease(Store(sys.argv[1]), '--workdir', 60)\nos._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, store.address]).returncode == 9
    Lease(store, "--workdir", 60).release()  # at once: its process is gone


def test_another_machines_lease_is_watched(bucket):
    store = Store(f"{bucket}/elsewhere")
    stamp = store.replace(NAME, OTHER % 0, None)
    began = time.monotonic()
    lease = Lease(store, "--workdir", 2)  # it stands still
    assert time.monotonic() - began >= 2
    for _ in range(100):  # taken over by force, between two beats
        with contextlib.suppress(LostError):
            store.replace(NAME, OTHER % 1, store.read(NAME).stamp)
            break
    for _ in range(100):
        if lease.lost:
            break
        time.sleep(0.1)
    with pytest.raises(InputError, match="taken over by process 1 on far"):
        lease.check()
    lease.release()
    assert store.read(NAME).stamp != stamp


def test_a_directory_comes_back_on_another_machine(bucket, tmp_path, monkeypatch):
    address = f"{bucket}/mirror"
    monkeypatch.setenv("CV3JAX_STORES", str(tmp_path / "one"))
    with mirrored(address) as work:
        written(work / "cascade", **{"cascade.json": "{}"})
        written(work, log="1\r")
    monkeypatch.setenv("CV3JAX_STORES", str(tmp_path / "two"))
    with mirrored(address) as work:
        assert (work / "log").read_bytes() == b"1\r"
    place = local(address)
    assert (place / "cascade" / "cascade.json").exists()
    assert not (place / "log").exists()


def test_a_run_whose_lease_was_taken_is_asked_to_stop(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("CV3JAX_STORES", str(tmp_path))
    monkeypatch.setenv("CV3JAX_LEASE_SECONDS", "1")
    monkeypatch.setattr("data_pipeline.io.objects.mirror.LOOK", 0.05)
    asked, store = [], Store(f"{bucket}/taken")
    monkeypatch.setattr("os.kill", lambda process, number: asked.append((process, number)))

    def run():
        with mirrored(store.address) as work:
            (work / "log").write_text("x")
            while not asked:
                with contextlib.suppress(LostError):
                    store.replace(NAME, OTHER % 1, store.read(NAME).stamp)
                time.sleep(0.5)

    with pytest.raises(InputError, match="taken over by process 1 on far"):
        run()
    assert asked == [(os.getpid(), signal.SIGTERM)]
    assert snapshots.read_tree(store) is None


def test_a_store_that_is_gone_ends_in_one_line(bucket, monkeypatch):
    store = Store(f"{bucket}/gone", tries=2)
    monkeypatch.setattr("data_pipeline.io.objects.store.WAIT", 0.01)

    def fails(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(store._fs, "info", fails)
    with pytest.raises(OSError, match=r"x: the store failed 2 times \(no route\)"):
        store.read("x")


def test_a_whole_bucket_is_no_workdir(bucket):
    whole = "/".join(bucket.split("/")[:3])
    with (
        pytest.raises(InputError, match=f"--workdir {whole}: this is a whole bucket; give an"),
        mirrored(whole),
    ):
        pass
