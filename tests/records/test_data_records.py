"""Test records: the schema through TFDS, atomic writing, and one line for a damaged file."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.records.records import FEATURES, RecordWriter, make_record, open_records


def png(i, size=8):
    return encode_png(
        np.random.default_rng(i).integers(0, 256, (size, size + 2, 3), dtype=np.uint8)
    )


def write(out, count=7, shards=3, size=8, **kwargs):
    records = [
        make_record(
            png(i, size),
            f"caption {i} ü",
            key=f"k{i}",
            url=f"http://x/{i}",
            scores={"aesthetic": i / 2},
        )
        for i in range(count)
    ]
    with RecordWriter(out, shards=shards, **kwargs) as writer:
        for record in records:
            writer.write(record)
    return records


def test_round_trip_of_every_field(tmp_path):
    written = {r["key"]: r for r in write(tmp_path / "d")}
    source = open_records(tmp_path / "d")
    assert len(source) == 7
    assert {r["key"]: r for r in source} == written
    assert source[-1] == source[6]
    with pytest.raises(IndexError):
        source[7]
    record = written["k2"]
    assert (record["height"], record["width"]) == (8, 10)
    assert record["sha256"] == hashlib.sha256(png(2)).hexdigest()
    assert len(record["phash"]) == 16
    assert json.loads(record["scores"]) == {"aesthetic": 1.0}
    assert set(record) == set(FEATURES)


def test_tfds_reads_it_and_nothing_imports_tensorflow(tmp_path):
    written = {r["key"]: r for r in write(tmp_path / "d")}
    program = f"""
import sys, json, hashlib
import data_pipeline.packing.pack, data_pipeline.loading.loader, data_pipeline.scenes.render
import data_pipeline.loading.tokenizer, data_pipeline.cli
from data_pipeline.records.records import open_records
len(open_records({str(tmp_path / "d")!r})[0])
import tensorflow_datasets as tfds
source = tfds.builder_from_directory({str(tmp_path / "d")!r}).as_data_source(split="train")
records = (source[i] for i in range(len(source)))
digests = {{r["key"].decode(): hashlib.sha256(r["image"]).hexdigest() for r in records}}
heavy = ("tensorflow", "cv3jax", "torch", "flax")
print(json.dumps([digests, [m for m in heavy if m in sys.modules]]))
"""
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=os.getcwd()
    ).stdout
    digests, foreign = json.loads(out)
    assert digests == {k: r["sha256"] for k, r in written.items()}
    assert foreign == []  # jax is not in the list: grain itself imports it where it is installed


def test_shards_are_balanced_and_no_more_than_records(tmp_path):
    write(tmp_path / "d", count=2, shards=5)
    names = sorted(p.name for p in (tmp_path / "d").glob("*array_record*"))
    assert names == [f"records-train.array_record-0000{i}-of-00002" for i in (0, 1)]
    write(tmp_path / "e", count=7, shards=3)
    lengths = json.loads((tmp_path / "e" / "dataset_info.json").read_text())["splits"][0][
        "shardLengths"
    ]
    assert lengths == ["3", "2", "2"]


def test_an_exception_leaves_nothing(tmp_path):
    def fail():
        with RecordWriter(tmp_path / "d") as writer:
            writer.write(make_record(png(0), "a", key="a"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_dataset_and_can_be_repeated(tmp_path):
    program = f"""
import os, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_data_records import png
from data_pipeline.records.records import RecordWriter, make_record
with RecordWriter({str(tmp_path / "d")!r}) as writer:
    for i in range(20):
        writer.write(make_record(png(i), "a", key=str(i)))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=os.getcwd()).returncode
        == -signal.SIGKILL
    )
    assert [p.name for p in tmp_path.iterdir()] == ["d.partial"]
    with pytest.raises(InputError, match="no records at"):
        open_records(tmp_path / "d")
    with pytest.raises(InputError, match=r"not a record dataset: it has no dataset_info\.json"):
        open_records(tmp_path / "d.partial")
    write(tmp_path / "d")
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_overwrite_replaces_a_dataset_and_nothing_else(tmp_path):
    write(tmp_path / "d", count=3)
    with pytest.raises(InputError, match="--overwrite"):
        write(tmp_path / "d", count=4)
    assert len(open_records(tmp_path / "d")) == 3
    write(tmp_path / "d", count=4, overwrite=True)
    assert len(open_records(tmp_path / "d")) == 4
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="not a record dataset"):
        write(tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "mine.jpg").exists()
    (tmp_path / "photos").rename(tmp_path / "e.partial")
    with pytest.raises(InputError, match=r"e\.partial exists and holds 'mine\.jpg'"):
        write(tmp_path / "e")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "e.partial"]
    assert (tmp_path / "e.partial" / "mine.jpg").exists()


def test_what_cannot_be_written_says_so(tmp_path):
    with pytest.raises(InputError, match="count = 0"), RecordWriter(tmp_path / "d"):
        pass
    assert not (tmp_path / "d").exists()

    def twice():
        with RecordWriter(tmp_path / "d") as writer:
            writer.write(make_record(png(0), "a", key="a"))
            writer.write(make_record(png(1), "b", key="a"))

    with pytest.raises(InputError, match="'a' occurs twice"):
        twice()
    with pytest.raises(InputError, match="shards = 0"):
        RecordWriter(tmp_path / "d", shards=0)


@pytest.mark.parametrize("keep", [0, 100, 64 * 1024, 0.5, -10], ids=str)
def test_a_truncated_shard_is_named(tmp_path, keep):
    write(tmp_path / "d", count=60, size=40)
    shard = tmp_path / "d" / "records-train.array_record-00001-of-00003"
    data = shard.read_bytes()
    shard.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match=f"{shard.name}.*(truncated|damaged)"):
        open_records(tmp_path / "d")


def test_a_shard_with_other_records_than_described_is_named(tmp_path):
    """It may be a file of another run that is undamaged."""
    write(tmp_path / "d", count=7)
    first, second = (
        tmp_path / "d" / f"records-train.array_record-0000{i}-of-00003" for i in (0, 1)
    )
    first.write_bytes(second.read_bytes())
    with pytest.raises(InputError, match=f"{first.name} has 2 records where .* says 3"):
        open_records(tmp_path / "d")


def test_a_record_is_parsed_as_tfds_parses_it(tmp_path):
    write(tmp_path / "d", count=1, shards=1)
    source = open_records(tmp_path / "d")
    record = {
        **source[0],
        "recaption": "",
        "caption": "ü\n\0",
        "width": 2**40,
        "scores": '{"a": [1, 2]}',
    }
    example = FEATURES.serialize_example(record)
    theirs = FEATURES.deserialize_example_np(example)
    texts = {k: v.decode() for k, v in theirs.items() if k not in ("image", "width", "height")}
    assert source.parse(example) == {**theirs, **texts} == record
    proto = tf_example_pb2.Example.FromString(example)
    for field, change in (
        ("caption", lambda one: one.Clear()),
        ("image", lambda one: one.bytes_list.value.append(b"two")),
        ("width", lambda one: one.bytes_list.value.append(b"12")),
    ):
        damaged = tf_example_pb2.Example.FromString(proto.SerializeToString())
        change(damaged.features.feature[field])
        with pytest.raises(ValueError, match="values to unpack"):
            source.parse(damaged.SerializeToString())


def test_a_damaged_record_is_named_when_read(tmp_path):
    write(tmp_path / "d", count=60, size=40)
    shard = tmp_path / "d" / "records-train.array_record-00001-of-00003"
    data = bytearray(shard.read_bytes())
    at = data.index(png(31, 40)[50:100])  # record 31 is number 10 of shard 1
    data[at] ^= 255
    shard.write_bytes(data)
    source = open_records(tmp_path / "d")
    bad = []
    for i in range(60):
        try:
            source[i]
        except InputError as e:
            bad.append(str(e))
    assert len(bad) == 1
    assert f"record 10 of {shard} is damaged" in bad[0]
    assert "\n" not in bad[0]


def test_a_damaged_description_is_one_line(tmp_path):
    write(tmp_path / "d")
    info, features = tmp_path / "d" / "dataset_info.json", tmp_path / "d" / "features.json"
    good_info, good_features = info.read_text(), features.read_text()
    for path, text, message in (
        (info, "{", "damaged"),
        (info, "[]", "not a JSON object"),
        (info, good_info.replace('"train"', '"validation"'), "not describe an array_record split"),
        (info, good_info.replace('"3"', '"0"').replace('"2"', '"0"'), "count = 0"),
        (features, good_features.replace("caption", "title"), "lacks caption"),
        (
            info,
            good_info.replace('"records"', '"../records"'),
            "not describe an array_record split",
        ),
        (info, good_info.replace('"3"', '"-3"'), "not describe an array_record split"),
    ):
        info.write_text(good_info)
        features.write_text(good_features)
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            open_records(tmp_path / "d")
    info.write_text(good_info)
    features.write_text(
        good_features.replace("tensorflow_datasets.core.features.text_feature.Text", "this.Evil")
    )
    assert len(open_records(tmp_path / "d")) == 7
    assert "this" not in sys.modules  # nothing that a dataset names is imported
    (tmp_path / "d" / "records-train.array_record-00002-of-00003").unlink()
    with pytest.raises(InputError, match="00002-of-00003 is missing"):
        open_records(tmp_path / "d")
