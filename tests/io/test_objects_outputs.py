"""Outputs and datasets in buckets, and the copies that this machine keeps of addresses."""

import collections
import contextlib
import itertools
import os
import shutil

import build_inputs
import pytest
from image_shards import tar

from data_pipeline.cli import main
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects import fetching, mirror, reading, snapshots
from data_pipeline.io.objects.lease import NAME as LEASE
from data_pipeline.io.objects.lease import Lease
from data_pipeline.io.objects.outputs import dataset, output
from data_pipeline.io.objects.places import place_of, public, shown
from data_pipeline.io.objects.store import Store
from data_pipeline.records.records import open_records


def names(address: str) -> set[str]:
    return {*Store(address).sizes("")} - {LEASE}


def test_a_dataset_appears_whole_and_is_replaced_only_on_request(bucket, tmp_path):
    address = f"{bucket}/scenes"
    argv = ["scenes", "--num", "6", "--size", "32", "--shards", "2", "--out", address]
    main(argv)
    first = names(address)
    assert {"tree.json", "dataset_info.json", "features.json"} < first
    assert sum(".array_record-" in name for name in first) == 2
    assert len(open_records(reading.local(address))) == 6
    assert not (place_of(address) / "dataset").exists()
    with pytest.raises(InputError, match=f"--out {address} already holds a dataset; give --over"):
        main(argv)
    main([*argv, "--overwrite", "--shards", "1"])
    assert sum(".array_record-" in name for name in names(address)) == 1
    assert len(open_records(reading.local(address))) == 6


def test_a_build_of_one_machine_is_published(bucket, tmp_path):
    address = f"{bucket}/built"
    tar(tmp_path / "0.tar", itertools.chain(*map(build_inputs.sample, range(4))))
    main(["build", "--input", str(tmp_path / "0.tar"), "--out", address])
    assert len(open_records(reading.local(address))) == 4
    assert "report.json" in names(address)


def test_somebody_elses_objects_are_not_replaced(bucket, tmp_path):
    (tmp_path / "x").write_text("theirs")
    Store(f"{bucket}/theirs").upload(tmp_path / "x", "x")
    with pytest.raises(InputError, match="holds objects that no command of cv3jax published"):
        main(["scenes", "--num", "2", "--out", f"{bucket}/theirs", "--overwrite"])
    with pytest.raises(InputError, match="that no command of cv3jax published"):
        output(f"{bucket}/theirs").__enter__()
    assert names(f"{bucket}/theirs") == {"x"}


def test_an_object_of_somebody_else_in_an_output_is_not_replaced(bucket, tmp_path):
    address, (mine, theirs) = f"{bucket}/mixed", ("0.png", "1.png")
    with output(address) as out:
        (out / mine).write_text("mine")
    (tmp_path / "x").write_text("theirs")
    Store(address).upload(tmp_path / "x", theirs)

    def draw():
        with output(address) as out:
            (out / mine).write_text("newer")
            (out / theirs).write_text("also mine")

    for _ in range(2):  # the first try does not make it ours
        with pytest.raises(InputError, match=f"^{address}/{theirs} is somebody else's object"):
            draw()
    assert Store(address).read(theirs).data == b"theirs"
    assert Store(address).read(mine).data == b"mine"
    assert (place_of(address) / "work" / theirs).read_text() == "also mine"  # nothing is lost
    Store(address).remove([theirs])
    draw()
    assert Store(address).read(theirs).data == b"also mine"


def test_a_dataset_that_was_published_meanwhile_is_not_replaced(bucket, tmp_path, monkeypatch):
    address, publish = f"{bucket}/raced", snapshots.publish
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b").write_text("2")

    def late(store, folder, digests, before, *args, **kwargs):
        publish(store, tmp_path / "other", {"b": None}, before, plain=True)  # another command's
        return publish(store, folder, digests, before, *args, **kwargs)

    def make(place):
        place.mkdir()
        (place / "a").write_text("1")
        return {}

    monkeypatch.setattr(snapshots, "publish", late)
    with pytest.raises(InputError, match=f"--out {address}: another command has written there"):
        dataset(address, make, [], overwrite=False)
    assert (place_of(address) / "dataset" / "a").exists()


def test_an_output_keeps_its_names_and_is_resumed(bucket):
    address = f"{bucket}/out"

    def stopped():
        with output(address) as out:
            (out / "0.png").write_text("first")
            (out / "index.html").write_text("one")
            assert public(out / "0.png") == f"{address}/0.png"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    shutil.rmtree(place_of(address))  # another machine
    with output(address) as out:
        assert (out / "0.png").read_text() == "first"
        (out / "1.png").write_text("second")
        (out / "index.html").write_text("two")
    assert names(address) == {"tree.json", "0.png", "1.png", "index.html"}
    assert Store(address).read("index.html").data == b"two"
    assert not (place_of(address) / "work").exists()


def test_a_kill_while_a_file_is_replaced_leaves_no_wrong_name(bucket, tmp_path, monkeypatch):
    store, work = Store(f"{bucket}/kill"), tmp_path / "work"
    work.mkdir()
    (work / "a").write_text("old")
    (work / "b").write_text("same")
    before = snapshots.publish(store, work, snapshots.whole(work), None, plain=True)
    (work / "a").write_text("new")

    def killed(self, path, name):
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "upload", killed)
    with pytest.raises(KeyboardInterrupt):
        snapshots.publish(store, work, snapshots.whole(work), before, plain=True)
    assert snapshots.read_tree(store)[0].keys() == {"b"}


def test_a_refused_run_publishes_nothing(bucket):
    with pytest.raises(InputError), mirror.mirrored(f"{bucket}/refused"):
        raise InputError("a field is wrong")
    assert names(f"{bucket}/refused") == set()


def test_a_fetch_that_was_killed_is_not_taken_for_whole(bucket, monkeypatch):
    address = f"{bucket}/fetch"
    with mirror.mirrored(address) as work:
        (work / "a").write_text("1")
        (work / "b").write_text("2")
    shutil.rmtree(place_of(address) / "work")
    get = fetching._get

    def killed(store, folder, name, about):
        if name == "b":
            raise KeyboardInterrupt
        get(store, folder, name, about)

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_get", killed)
        with pytest.raises(KeyboardInterrupt), mirror.mirrored(address):
            pass
    with mirror.mirrored(address) as work:
        assert (work / "b").read_text() == "2"


def test_what_does_not_fit_is_refused_before_it_is_fetched(bucket, monkeypatch):
    address = f"{bucket}/large"
    with mirror.mirrored(address) as work:
        (work / "a").write_text("1")
    usage = collections.namedtuple("usage", "total used free")(9, 0, 9)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match="set CV3JAX_STORES to a directory on a larger disk"):
        reading.local(address)


def test_an_unchanged_file_is_read_once(bucket, monkeypatch):
    hashed, of = [], snapshots.hash_of
    monkeypatch.setattr(snapshots, "hash_of", lambda path: hashed.append(path.name) or of(path))
    store = Store(f"{bucket}/once")
    lease = Lease(store, "--workdir", 60)
    one = mirror.Mirror(store, lease, False)
    one.pull()
    (one.work / "large").write_text("large")
    os.utime(one.work / "large", (1, 1))
    for turn in range(3):
        (one.work / "log").write_text("x" * turn)
        one.publish()
        assert snapshots.read_tree(store)[0]["log"][0] == turn
    (one.work / "large").write_text("other")  # of the same size
    one.publish()
    lease.release()
    assert hashed.count("large") == 2
    assert snapshots.read_tree(store)[0]["large"][1] == of(one.work / "large")


def test_what_failed_once_is_published_later(bucket, monkeypatch):
    store, upload, down = Store(f"{bucket}/later"), Store.upload, [False]
    lease = Lease(store, "--out", 60)
    one = mirror.Mirror(store, lease, True)
    one.pull()

    def fails(self, path, name):
        if down[0]:
            raise OSError(5, "the store is down")
        upload(self, path, name)

    monkeypatch.setattr(Store, "upload", fails)
    for text, down[0] in (("one", False), ("two", True), ("three", False)):
        (one.work / "index.html").write_text(text)
        with contextlib.suppress(OSError):
            one.publish()
    lease.release()
    assert store.read("index.html").data == b"three"
    assert snapshots.read_tree(store)[0].keys() == {"index.html"}


def test_a_large_part_is_copied_by_the_store(bucket, tmp_path, monkeypatch):
    with mirror.mirrored(f"{bucket}/vae") as work:
        (work / "cascade").mkdir()
        (work / "cascade" / "weights").write_bytes(os.urandom(2**21))
        (work / "cascade" / "cascade.json").write_text("{}")
    copy = reading.local(f"{bucket}/vae")
    sent, upload = [], Store.upload

    def watched(self, path, name):
        sent.append(name.rpartition("/")[2])
        upload(self, path, name)

    monkeypatch.setattr(Store, "upload", watched)
    with mirror.mirrored(f"{bucket}/base") as work:
        shutil.copytree(copy / "cascade", work / "cascade")
    assert sent == ["cascade.json"]
    whole = fetching.fetch(Store(f"{bucket}/base"), tmp_path / "read")
    assert set(whole[0]) == {"cascade/weights", "cascade/cascade.json"}


def test_old_copies_that_nobody_reads_are_removed(bucket, monkeypatch):
    address, copies = f"{bucket}/copies", []
    for turn in range(3):
        with mirror.mirrored(address) as work:
            (work / "log").write_text(f"{turn}")
        copies.append(reading.local(address))
        if turn == 0:
            os.close(reading._held.pop(copies[0]))  # its reader has ended
    assert [copy.exists() for copy in copies] == [False, True, True]
    left = sorted(path.name for path in place_of(address).glob("read-*"))
    assert len(left) == 6  # two copies, what they are of, and who reads them


def test_a_part_is_found_by_its_address_on_another_machine(bucket, tmp_path, monkeypatch):
    address = f"{bucket}/part"
    with mirror.mirrored(address) as work:
        (work / "cascade" / "vae").mkdir(parents=True)
        (work / "cascade" / "vae" / "a").write_text("1")
        (work / "cascade" / "cascade.json").write_text("{}")
    text = shown(reading.local(address) / "cascade" / "vae")
    assert text == f"{address}#cascade/vae"
    monkeypatch.setenv("CV3JAX_STORES", str(tmp_path / "other"))
    assert (reading.found(text) / "a").read_text() == "1"
    assert shown(tmp_path / "a#b") == str(tmp_path / "a#b")
    assert reading.found(str(tmp_path / "a#b")) == tmp_path / "a#b"
