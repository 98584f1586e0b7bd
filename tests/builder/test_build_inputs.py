"""What `cv3jax data build` reads: tars that break, parquet, metadata joined by key, folders with
captions in files and tables.
"""

import io
import json
import os
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from image_shards import tar
from PIL import Image
from pyarrow import parquet

from data_pipeline.builder.dedup import Entry, EntryCoder, clashes, pairs
from data_pipeline.builder.inputs import Unit, find_units, groups, read_place, read_unit
from data_pipeline.builder.measure import look
from data_pipeline.cli import main
from data_pipeline.io.errors import InputError
from data_pipeline.records.records import open_records
from data_pipeline.sources.items import Item, Place


def jpeg(i, size=(64, 48)):
    """Pictures of which no two are near."""
    field = np.random.default_rng(i).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(field).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
    return out.getvalue()


def build(out, *flags):
    main(["build", "--output", str(out), *(str(flag) for flag in flags)])
    return {record["key"]: record for record in open_records(out)}, json.loads(
        (out / "report.json").read_text()
    )


def sample(i, **fields):
    return [
        (f"{i:03d}.jpg", jpeg(i)),
        (f"{i:03d}.txt", b"picture %d" % i),
        (f"{i:03d}.json", json.dumps(fields).encode()),
    ]


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
        # between two samples: nothing but the end mark tells
        "d.tar": data[: members["003.jpg"].offset],
        # a header of noise
        "e.tar": data[: text.offset] + b"\xff" * 512 + data[text.offset + 512 :],
        "f.tar": b"not a tar at all",
        "g.tar": b"",
        "h.tar": data.rstrip(b"\0") + bytes(1024),  # whole, but not padded to a record's length
        "i.tar": data[: members["002.json"].offset],  # before a sample's json
        # made large before it was filled
        "j.tar": data[: members["002.jpg"].offset] + bytes(2**21),
        "k.tar": data + data,  # two, of which the second would be lost
        "l.tar": (
            b"".join(pax(kind) for kind in ("GNU.sparse.map=x,y", "GNU.sparse.size=abc")) + data
        ),
    }
    for name, part in cuts.items():
        (tmp_path / name).write_bytes(part)
    found = {}
    for unit in find_units([f"{tmp_path}/*.tar"], None):
        items = list(read_unit(unit))
        good = [item for item in items if isinstance(item, Item)]
        found[Path(unit.name).name] = (
            [item.key for item in good],
            [item.reason for item in items if item not in good],
        )
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
        "j.tar": (["000", "001"], ["damaged tar"]),
        "k.tar": (["000", "001", "002", "003"], ["damaged tar"]),
        "l.tar": ([], ["damaged tar"]),
    }


def pax(record):
    """A header of extensions that the next member cannot bear."""
    member = tarfile.TarInfo("x.jpg")
    member.pax_headers = dict([record.split("=")])
    return member.tobuf(tarfile.PAX_FORMAT)


def test_keys_that_two_downloads_share(tmp_path):
    """img2dataset counts from 0 each time.

    Other pictures of one key stay; the same picture of one key does not.
    """
    for name, numbers in (("a.tar", (0, 1, 2)), ("b.tar", (10, 11, 2))):
        tar(
            tmp_path / name,
            [
                (f"{key:03d}.{kind}", part)
                for key, i in enumerate(numbers)
                for kind, part in (("jpg", jpeg(i)), ("txt", b"picture %d" % i))
            ],
        )
    records, report = build(tmp_path / "D", "--input", f"{tmp_path}/*.tar")
    assert sorted(key.partition("~")[0] for key in records) == ["000", "000", "001", "001", "002"]
    assert {records[key]["sha256"][:16] for key in records if "~" in key} == {
        key.partition("~")[2] for key in records if "~" in key
    }
    assert report["dropped"] == {"exact_duplicate": 1}


def test_parquet_with_images_and_metadata_joined_by_key(tmp_path):
    rows = [
        {
            "key": f"{i:03d}",
            "jpg": jpeg(i),
            "caption": f"picture {i}",
            "url": f"http://h/{i}",
            "similarity": 0.25,
        }
        for i in range(6)
    ]
    rows[4]["jpg"] = rows[4]["jpg"][:200]
    rows[5] |= {"jpg": None}
    table = pyarrow.Table.from_pylist([*rows, {**rows[3], "jpg": jpeg(77), "key": "006"}])
    # is not UTF-8
    latin = pyarrow.array([*(row["caption"].encode() for row in rows), b"caf\xe9"]).view(
        pyarrow.string()
    )
    parquet.write_table(
        table.set_column(2, "caption", latin), tmp_path / "in.parquet", row_group_size=2
    )
    parquet.write_table(
        pyarrow.Table.from_pylist([{"similarity": 9.5, "punsafe": 0.1}]), tmp_path / "other.parquet"
    )
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "in.parquet").read_bytes()[:-50])
    tags = {1: "NSFW"}
    scores = [
        {
            "key": f"{i:03d}",
            "punsafe": i / 10,
            "NSFW": tags.get(i, "UNLIKELY"),
            "URL": f"http://other/{i}",
        }
        for i in (0, 1, 2, 9)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(scores), tmp_path / "meta.parquet")
    flags = ("--input", tmp_path / "in.parquet", "--max-bad-fraction", 1, "--nsfw-tags", "nsfw")
    joined = (*flags, "--metadata", tmp_path / "meta.parquet", "--input", tmp_path / "torn.parquet")
    records, report = build(tmp_path / "D", *joined, "--max-unsafe", "0.15")
    assert sorted(records) == ["000", "003"]
    assert report["dropped"] == {
        "damaged_parquet_file": 1,
        "no_caption": 1,
        "no_image": 1,
        "nsfw": 1,
        "undecodable": 1,
        "unsafe": 1,
    }
    assert records["000"]["image"] == jpeg(0)
    assert json.loads(records["000"]["scores"]) == {
        "NSFW": "UNLIKELY",
        "punsafe": 0.0,
        "similarity": 0.25,
    }
    assert records["000"]["url"] == "http://h/0"  # its own wins
    assert json.loads(records["003"]["scores"]) == {"similarity": 0.25}
    (unit,) = find_units([str(tmp_path / "in.parquet")], None)
    assert [read_place(item.place) for item in read_unit(unit) if isinstance(item, Item)] == [
        row["jpg"] for row in rows[:5]
    ]
    assert find_units([str(tmp_path / "torn.parquet")], None)[0].column == ""
    with pytest.raises(
        InputError,
        match=r"meta.parquet has no column 'hash' of text or numbers; it has key, punsafe",
    ):
        build(tmp_path / "E", *joined, "--join-on", "hash")
    with pytest.raises(InputError, match="no column of image bytes"):
        build(tmp_path / "E", "--input", tmp_path / "meta.parquet")
    with pytest.raises(
        InputError, match="--metadata has no row for any of 7 items by 'similarity'"
    ):
        build(
            tmp_path / "F",
            *flags,
            "--metadata",
            tmp_path / "other.parquet",
            "--join-on",
            "similarity",
        )


def folder(root, count=4):
    (root / "sub").mkdir(parents=True)
    for i in range(count):
        (root / ("sub" if i % 2 else ".") / f"p{i}.jpg").write_bytes(jpeg(i))
    return root


def test_a_folder_with_captions_beside_them(tmp_path):
    root = folder(tmp_path / "in")
    for i in range(3):
        (root / ("sub" if i % 2 else ".") / f"p{i}.txt").write_text(f"picture {i}")
    for name in ("alone.txt", "b.1.txt", "b.2.txt", os.fsdecode(b"\xff.txt")):
        (root / name).write_text("of nothing")
    records, report = build(tmp_path / "D", "--input", root)
    assert {key: record["caption"] for key, record in records.items()} == {
        "p0": "picture 0",
        "sub/p1": "picture 1",
        "p2": "picture 2",
    }
    assert report["dropped"] == {"no_caption": 1, "no_image": 4}
    assert {each["key"] for each in report["examples"]["no_image"]} == {
        "alone",
        "b.1",
        "b.2",
        "\\udcff",
    }


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_folder_with_a_table(kind, tmp_path):
    root = folder(tmp_path / "in")
    (tmp_path / "outside.jpg").write_bytes(jpeg(9))
    names = ["p0.jpg", "sub/p1.jpg", "gone.jpg", "../outside.jpg"]
    rows = [
        {"file_name": name, "caption": f'picture {i}, "quoted"\u00e4', "aesthetic": i + 0.5}
        for i, name in enumerate(names)
    ]
    table = tmp_path / f"captions.{kind}"
    if kind == "csv":
        import csv

        with table.open("w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        table.write_text("\n".join(json.dumps(row) for row in rows))
    records, report = build(
        tmp_path / "D", "--input", root, "--captions", table, "--max-bad-fraction", 0.6
    )
    assert sorted(records) == ["p0", "sub/p1"]
    assert records["sub/p1"]["caption"] == 'picture 1, "quoted"ä'
    assert json.loads(records["sub/p1"]["scores"]) == {"aesthetic": 1.5}
    assert report["dropped"] == {"file_missing": 1, "file_outside_the_source": 1}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--input", "{at}/none/*.tar"],
            "--input .*none/.* nothing there; give tars, parquet files or a folder",
        ),
        (["--input", "{at}/x.jpg"], "neither .tar nor .parquet"),
        (["--input", "{at}/empty"], "holds no .tar, no .parquet and no images"),
        (
            ["--input", "{at}/a.tar", "--captions", "c.csv"],
            "--captions c.csv: only for a folder of images",
        ),
        (
            ["--input", "{at}/a.tar", "--metadata", "{at}/no*.parquet"],
            "--metadata .* nothing there",
        ),
        (
            ["--input", "{at}/a.tar", "--max-bad-fraction", "2"],
            "--max-bad-fraction 2: give a number in 0..1",
        ),
        (
            ["--input", "{at}/a.tar", "--min-sde", "2"],
            "unrecognized: --min-sde 2; neither a flag of data build",
        ),
        (
            ["--input", "{at}/a.tar", "--blocked-sources", "{at}/none.txt"],
            "blocked sources .*none.txt cannot be read",
        ),
        (
            ["--input", "{at}/a.tar", "--filters", "{at}/none.yaml"],
            "none.yaml: not readable as YAML",
        ),
        (
            ["--input", "{at}/a.tar", "--direct_num_workers", "two"],
            "Apache Beam refuses its options",
        ),
        (["--input", "{at}/a.tar", "--threads", "0"], "--threads 0: give a number in 1..256"),
        (
            ["--input", "{at}/a.tar", "--keep-exact"],
            "keep_exact keeps what near_radius = 12 would drop",
        ),
        (["--input", "{at}/a.tar", "--nsfw-tags", " , "], "nsfw_tags is empty"),
    ],
)
def test_wrong_inputs(flags, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.jpg").write_bytes(jpeg(0))
    tar(tmp_path / "a.tar", sample(0))
    with pytest.raises(InputError, match=message):
        build(tmp_path / "D", *(flag.format(at=tmp_path) for flag in flags))
    assert not (tmp_path / "D").exists()


def test_a_file_that_changed_meanwhile(tmp_path, monkeypatch):
    from data_pipeline.builder import build as passes

    tar(tmp_path / "a.tar", sample(0) + sample(1))

    for parts in (
        sample(1) + sample(2),
        sample(0),
        [*sample(0), *sample(1)[:1], ("001.txt", b"picture 9"), sample(1)[2]],
    ):

        def write(work, units, groups, options, wrapped=passes._write, parts=parts):
            tar(tmp_path / "a.tar", parts)
            wrapped(work, units, groups, options)

        with monkeypatch.context() as patch:
            patch.setattr(passes, "_write", write)
            with pytest.raises(
                InputError, match=r"a.tar changed while it was being read; .* starts with it anew$"
            ):
                build(tmp_path / "D", "--input", tmp_path / "a.tar")
        tar(tmp_path / "a.tar", sample(0) + sample(1))
    records, _ = build(tmp_path / "D", "--input", tmp_path / "a.tar")
    assert sorted(records) == ["000", "001"]


def test_small_inputs_share_a_shard():
    units = [Unit("tar", f"{i}", f"{i}", size) for i, size in enumerate((30, 30, 50, 10, 200, 5))]
    assert groups(units, 100) == [range(0, 3), range(3, 5), range(5, 6)]
    assert [list(g) for g in groups(units, 1)] == [[i] for i in range(6)]


def entry(rank, ordinal, bits=0):
    return Entry(bytes([rank]) * 28, 0, ordinal, f"k{ordinal}", Place("", 0, 0), bits, b"")


def test_crowded_bands_stay_cheap(monkeypatch):
    """Of copies without number a record is compared with some better ones, and more than BUCKET are
    cut into stretches.
    """
    crowd = [entry(1, i, i % 2) for i in range(300)]
    met = list(pairs((0, crowd), 4))
    assert len(met) == sum(min(i, 8) for i in range(300))
    assert all(worse > better for _, (worse, better) in met)
    monkeypatch.setattr("data_pipeline.builder.dedup.BUCKET", 50)
    assert 280 < len({worse.ordinal for _, (worse, _) in pairs((0, crowd), 4)}) < 300


@pytest.mark.parametrize("file", ["", "a/b.jpg", "\udcff/ä.png"])
def test_an_entry_survives_the_shuffle(file):
    whole = Entry(b"r" * 28, 2**31, 7, "key ü", Place(file, 2**40, -1), 2**64 - 1, bytes(range(24)))
    assert EntryCoder().decode(EntryCoder().encode(whole)) == whole
    assert len(EntryCoder().encode(entry(1, 2))) < 72


def test_of_one_key_the_best_keeps_it():
    renamed = {
        row["ordinal"]: row["key"]
        for _, row in clashes("k", [entry(3, 0), entry(1, 1), entry(2, 2), entry(2, 3)])
    }
    assert renamed == {2: f"k~{'02' * 8}", 3: f"k~{'02' * 8}~", 0: f"k~{'03' * 8}"}


def test_damaged_images_of_any_kind_are_undecodable():
    """Pillow's decoders raise whatever comes: bytes of good images, changed at random."""
    rng, problems = np.random.default_rng(0), set()
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix, options in (("PNG", {}), ("JPEG", {"exif": exif}), ("WEBP", {"exif": exif})):
        out = io.BytesIO()
        Image.open(io.BytesIO(jpeg(0))).save(out, suffix, **options)
        for _ in range(150):
            data = bytearray(out.getvalue())
            for place in rng.integers(0, min(len(data), 200), 3):
                data[place] = rng.integers(256)
            problems.add(
                look(
                    Item("k", bytes(data), "caption", "", {}, Place("", 0, 0)), 0, 10**6, 10**6
                ).problem
            )
    assert problems <= {"", "undecodable", "decompression_bomb"}
    assert len(problems) == 3
    empty = b"\x00\x00\x00\x00gAMA" + zlib.crc32(b"gAMA").to_bytes(4)
    png = io.BytesIO()
    Image.new("RGB", (40, 40)).save(png, "PNG")
    # after the pixels: read when they have been
    late = png.getvalue()[:-12] + empty + png.getvalue()[-12:]
    assert look(Item("k", late, "caption", "", {}, Place("", 0, 0)), 0, 10**6, 10**6).problem in (
        "",
        "undecodable",
    )


def test_files_that_break_off_end_the_build(tmp_path):
    tar(tmp_path / "a.tar", [part for i in range(8) for part in sample(i)])
    (tmp_path / "b.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:5000])
    tar(tmp_path / "c.tar", [part for i in range(8, 90) for part in sample(i)])
    (tmp_path / "c.tar").write_bytes((tmp_path / "c.tar").read_bytes()[:40_000] + b"\xff" * 60_000)
    with pytest.raises(
        InputError,
        match=(
            r"bytes are lost in files that break off \(most of them in .*\); at most"
            r" --max-bad-fraction 0.2"
        ),
    ):
        build(tmp_path / "D", "--input", f"{tmp_path}/*.tar", "--max-bad-fraction", 0.2)


def test_somebody_elses_directory_stays(tmp_path):
    tar(tmp_path / "a.tar", sample(0))
    (tmp_path / "D.build").mkdir()
    (tmp_path / "D.build" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is in the way, and not of a build"):
        build(tmp_path / "D", "--input", tmp_path / "a.tar")
    assert (tmp_path / "D.build" / "thesis.tex").exists()
    (tmp_path / "E").mkdir()
    (tmp_path / "E" / "mine").write_text("")
    with pytest.raises(InputError, match="not a record dataset"):
        build(tmp_path / "E", "--input", tmp_path / "a.tar")
    assert not (tmp_path / "E.build").exists()


def test_names_with_brackets_and_folders_that_share_a_table(tmp_path):
    table = tmp_path / "captions.jsonl"
    for name in ("x[1]", "y"):
        folder(tmp_path / name, 2)
    for i in (0, 1):
        (tmp_path / "y" / ("sub" if i else ".") / f"p{i}.jpg").write_bytes(jpeg(i + 20))
    table.write_text(
        "\n".join(
            json.dumps({"file_name": n, "caption": f"picture {n}"})
            for n in ("p0.jpg", "sub/p1.jpg")
        )
    )
    flags = [flag for name in ("x[1]", "y") for flag in ("--input", tmp_path / name)]
    records, _ = build(tmp_path / "D[2]", *flags, "--captions", table)
    assert sorted(key.partition("~")[0] for key in records) == ["p0", "p0", "sub/p1", "sub/p1"]


def test_of_the_same_file_twice_the_same_one_stays(tmp_path):
    """Whichever tar it was in: key, caption and URL decide, and not the names of tars."""
    kept = []
    for names in (("a", "b"), ("b", "a")):
        root = tmp_path / "-".join(names)
        root.mkdir()
        for name, key, caption in zip(names, ("777", "000"), (b"second", b"first"), strict=True):
            tar(root / f"{name}.tar", [(f"{key}.jpg", jpeg(1)), (f"{key}.txt", caption)])
        kept.append(build(root / "D", "--input", f"{root}/*.tar")[0])
    assert kept[0] == kept[1]
    assert len(kept[0]) == 1
