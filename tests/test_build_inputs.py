"""What `cv3jax data build` reads: tars that break, parquet, metadata joined by key, folders with captions in files and tables."""

import io
import json
import tarfile

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from test_data_pack import tar

from data_pipeline.build.dedup import Entry, EntryCoder, clashes, pairs
from data_pipeline.build.inputs import Unit, find_units, groups, read_place, read_unit
from data_pipeline.cli import main
from data_pipeline.errors import InputError
from data_pipeline.items import Item, Place
from data_pipeline.records import open_records


def jpeg(i, size=(64, 48)):
    """Pictures of which no two are near."""
    field = np.random.default_rng(i).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(field).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
    return out.getvalue()


def build(out, *flags):
    main(["build", "--output", str(out), *(str(flag) for flag in flags)])
    return {record["key"]: record for record in open_records(out)}, json.loads((out / "report.json").read_text())


def sample(i, **fields):
    return [(f"{i:03d}.jpg", jpeg(i)), (f"{i:03d}.txt", b"picture %d" % i), (f"{i:03d}.json", json.dumps(fields).encode())]


def test_tars_that_break(tmp_path):
    whole = tmp_path / "a.tar"
    tar(whole, [part for i in range(4) for part in sample(i)])
    data = whole.read_bytes()
    with tarfile.open(whole) as file:
        members = {member.name: member for member in file}
    image, text = members["002.jpg"], members["002.txt"]
    cuts = {
        "b.tar": data[: image.offset_data + 100],  # in an image
        "c.tar": data[: text.offset + 300],  # in a header
        "d.tar": data[: members["003.jpg"].offset],  # between two samples: nothing but the end mark tells
        "e.tar": data[: text.offset] + b"\xff" * 512 + data[text.offset + 512 :],  # a header of noise
        "f.tar": b"not a tar at all",
        "g.tar": b"",
        "h.tar": data.rstrip(b"\0") + bytes(1024),  # whole, but not padded to a record's length
        "i.tar": data[: members["002.json"].offset],  # before a sample's json
    }
    for name, part in cuts.items():
        (tmp_path / name).write_bytes(part)
    found = {}
    for unit in find_units([f"{tmp_path}/*.tar"], None):
        items = list(read_unit(unit))
        good = [item for item in items if isinstance(item, Item)]
        found[unit.name] = ([item.key for item in good], [item.reason for item in items if item not in good])
        assert [read_place(item.place) for item in good] == [item.image for item in good]
    assert found == {
        "a.tar": (["000", "001", "002", "003"], []),
        "b.tar": (["000", "001"], ["damaged tar"]),
        "c.tar": (["000", "001"], ["damaged tar"]),
        "d.tar": (["000", "001", "002"], ["damaged tar"]),
        "e.tar": (["000", "001"], ["damaged tar"]),
        "f.tar": ([], ["damaged tar"]),
        "g.tar": ([], ["damaged tar"]),
        "h.tar": (["000", "001", "002", "003"], []),
        "i.tar": (["000", "001"], ["damaged tar"]),
    }


def test_keys_that_two_downloads_share(tmp_path):
    """img2dataset counts from 0 each time. Other pictures of one key stay; the same picture of one key does not."""
    for name, numbers in (("a.tar", (0, 1, 2)), ("b.tar", (10, 11, 2))):
        tar(tmp_path / name, [(f"{key:03d}.{kind}", part) for key, i in enumerate(numbers) for kind, part in
                              (("jpg", jpeg(i)), ("txt", b"picture %d" % i))])  # fmt: skip
    records, report = build(tmp_path / "D", "--input", f"{tmp_path}/*.tar")
    assert sorted(key.partition("~")[0] for key in records) == ["000", "000", "001", "001", "002"]
    assert {records[key]["sha256"][:8] for key in records if "~" in key} == {key.partition("~")[2] for key in records if "~" in key}
    assert report["dropped"] == {"exact_duplicate": 1}


def test_parquet_with_images_and_metadata_joined_by_key(tmp_path):
    rows = [{"key": f"{i:03d}", "jpg": jpeg(i), "caption": f"picture {i}", "url": f"http://h/{i}", "similarity": 0.25} for i in range(6)]
    rows[4]["jpg"] = rows[4]["jpg"][:200]
    rows[5] |= {"jpg": None}
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=2)
    tags = {1: "NSFW"}
    scores = [{"key": f"{i:03d}", "punsafe": i / 10, "NSFW": tags.get(i, "UNLIKELY"), "URL": f"http://other/{i}"} for i in (0, 1, 2, 9)]
    parquet.write_table(pyarrow.Table.from_pylist(scores), tmp_path / "meta.parquet")
    flags = ("--input", tmp_path / "in.parquet", "--metadata", tmp_path / "meta.parquet", "--max-bad-fraction", 0.5, "--nsfw-tags", "nsfw")
    records, report = build(tmp_path / "D", *flags, "--max-unsafe", "0.15")
    assert sorted(records) == ["000", "003"]
    assert report["dropped"] == {"no_image": 1, "nsfw": 1, "undecodable": 1, "unsafe": 1}
    assert records["000"]["image"] == jpeg(0)
    assert json.loads(records["000"]["scores"]) == {"NSFW": "UNLIKELY", "punsafe": 0.0, "similarity": 0.25}
    assert records["000"]["url"] == "http://h/0"  # its own wins
    assert json.loads(records["003"]["scores"]) == {"similarity": 0.25}
    (unit,) = find_units([str(tmp_path / "in.parquet")], None)
    assert [read_place(item.place) for item in read_unit(unit) if isinstance(item, Item)] == [row["jpg"] for row in rows[:5]]
    with pytest.raises(InputError, match=r"meta.parquet has no column 'hash'; it has key, punsafe"):
        build(tmp_path / "E", *flags, "--join-on", "hash")
    with pytest.raises(InputError, match="no column of image bytes"):
        build(tmp_path / "E", "--input", tmp_path / "meta.parquet")
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "in.parquet").read_bytes()[:-50])
    with pytest.raises(InputError, match=r"torn.parquet is not a readable parquet file"):
        build(tmp_path / "E", "--input", tmp_path / "torn.parquet")


def folder(root, count=4):
    (root / "sub").mkdir(parents=True)
    for i in range(count):
        (root / ("sub" if i % 2 else ".") / f"p{i}.jpg").write_bytes(jpeg(i))
    return root


def test_a_folder_with_captions_beside_them(tmp_path):
    root = folder(tmp_path / "in")
    for i in range(3):
        (root / ("sub" if i % 2 else ".") / f"p{i}.txt").write_text(f"picture {i}")
    (root / "alone.txt").write_text("of nothing")
    records, report = build(tmp_path / "D", "--input", root)
    assert {key: record["caption"] for key, record in records.items()} == {"p0": "picture 0", "sub/p1": "picture 1", "p2": "picture 2"}
    assert report["dropped"] == {"no_caption": 1, "no_image": 1}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_folder_with_a_table(kind, tmp_path):
    root = folder(tmp_path / "in")
    (tmp_path / "outside.jpg").write_bytes(jpeg(9))
    names = ["p0.jpg", "sub/p1.jpg", "gone.jpg", "../outside.jpg"]
    rows = [{"file_name": name, "caption": f'picture {i}, "quoted"\u00e4', "aesthetic": i + 0.5} for i, name in enumerate(names)]
    table = tmp_path / f"captions.{kind}"
    if kind == "csv":
        import csv

        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        table.write_text("\n".join(json.dumps(row) for row in rows))
    records, report = build(tmp_path / "D", "--input", root, "--captions", table, "--max-bad-fraction", 0.6)
    assert sorted(records) == ["p0", "sub/p1"]
    assert records["sub/p1"]["caption"] == 'picture 1, "quoted"ä'
    assert json.loads(records["sub/p1"]["scores"]) == {"aesthetic": 1.5}
    assert report["dropped"] == {"file_missing": 1, "file_outside_the_source": 1}


@pytest.mark.parametrize(("flags", "message"), [
    (["--input", "{at}/none/*.tar"], "--input .*none/.* nothing there; give tars, parquet files or a folder"),
    (["--input", "{at}/x.jpg"], "neither .tar nor .parquet"),
    (["--input", "{at}/empty"], "holds no .tar, no .parquet and no images"),
    (["--input", "{at}/a.tar", "--captions", "c.csv"], "--captions c.csv: only for a folder of images"),
    (["--input", "{at}/a.tar", "--metadata", "{at}/no*.parquet"], "--metadata .* nothing there"),
    (["--input", "{at}/a.tar", "--max-bad-fraction", "2"], "--max-bad-fraction 2: give a number in 0..1"),
    (["--input", "{at}/a.tar", "--min-sde", "2"], "unrecognized: --min-sde 2; neither a flag of data build"),
    (["--input", "{at}/a.tar", "--blocked-sources", "{at}/none.txt"], "blocked sources .*none.txt cannot be read"),
    (["--input", "{at}/a.tar", "--filters", "{at}/none.yaml"], "none.yaml: not readable as YAML"),
    (["--input", "{at}/a.tar", "--direct_num_workers", "two"], "Apache Beam refuses its options"),
])  # fmt: skip
def test_wrong_inputs(flags, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.jpg").write_bytes(jpeg(0))
    tar(tmp_path / "a.tar", sample(0))
    with pytest.raises(InputError, match=message):
        build(tmp_path / "D", *(flag.format(at=tmp_path) for flag in flags))
    assert not (tmp_path / "D").exists()


def test_a_file_that_changed_meanwhile(tmp_path, monkeypatch):
    from data_pipeline.build import build as passes

    tar(tmp_path / "a.tar", sample(0) + sample(1))

    def write(work, units, groups, options, wrapped=passes._write):
        tar(tmp_path / "a.tar", sample(1) + sample(2))
        wrapped(work, units, groups, options)

    monkeypatch.setattr(passes, "_write", write)
    with pytest.raises(InputError, match=r"a.tar changed while it was being read"):
        build(tmp_path / "D", "--input", tmp_path / "a.tar")


def test_small_inputs_share_a_shard():
    units = [Unit("tar", f"{i}", f"{i}", size) for i, size in enumerate((30, 30, 50, 10, 200, 5))]
    assert groups(units, 100) == [range(0, 3), range(3, 5), range(5, 6)]
    assert [list(g) for g in groups(units, 1)] == [[i] for i in range(6)]


def entry(rank, ordinal, bits=0):
    return Entry(bytes([rank]) * 20, 0, ordinal, f"k{ordinal}", Place("", 0, 0), bits, b"")


def test_crowded_bands_stay_cheap(monkeypatch):
    """Of copies without number a record is compared with some better ones, and more than BUCKET are cut into stretches."""
    crowd = [entry(1, i, i % 2) for i in range(300)]
    met = list(pairs((0, crowd), 4))
    assert len(met) == sum(min(i, 8) for i in range(300))
    assert all(worse > better for _, (worse, better) in met)
    monkeypatch.setattr("data_pipeline.build.dedup.BUCKET", 50)
    assert 280 < len({worse.ordinal for _, (worse, _) in pairs((0, crowd), 4)}) < 300


@pytest.mark.parametrize("file", ["", "a/b.jpg", "\udcff/ä.png"])
def test_an_entry_survives_the_shuffle(file):
    whole = Entry(b"r" * 20, 2**31, 7, "key ü", Place(file, 2**40, -1), 2**64 - 1, bytes(range(24)))
    assert EntryCoder().decode(EntryCoder().encode(whole)) == whole
    assert len(EntryCoder().encode(entry(1, 2))) < 64


def test_of_one_key_the_best_keeps_it():
    renamed = {row["ordinal"]: row["key"] for _, row in clashes("k", [entry(3, 0), entry(1, 1), entry(2, 2), entry(2, 3)])}
    assert renamed == {2: "k~02020202", 3: "k~02020202~", 0: "k~03030303"}
