"""Test the inputs of `cv3jax data build`.

They are parquet, metadata joined by key, folders with captions in files and tables, and inputs that
are refused.
"""

import argparse
import json
import os

import pyarrow
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from build_inputs import build, jpeg, sample
from image_shards import tar
from pyarrow import parquet

from data_pipeline.builder import command
from data_pipeline.builder.inputs import Unit, find_units, groups, read_place, read_unit
from data_pipeline.io.errors import InputError
from data_pipeline.sources.items import Item


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
        "damaged_text_or_json": 1,
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
        match=r"meta.parquet has no column 'hash' of text or numbers; give --join-on one of key, ",
    ):
        build(tmp_path / "E", *joined, "--join-on", "hash")
    with pytest.raises(InputError, match="no column of image bytes"):
        build(tmp_path / "E", "--input", tmp_path / "meta.parquet")
    with pytest.raises(InputError, match="--metadata: no item has a row with its 'similarity'"):
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
            "--input .*none/.* there is no such file or folder; give tars, parquet files or a"
            " folder",
        ),
        (["--input", "{at}/x.jpg"], "neither a .tar nor a .parquet"),
        (["--input", "{at}/empty"], "holds no .tar, no .parquet and no images"),
        (
            ["--input", "{at}/a.tar", "--captions", "c.csv"],
            "--captions c.csv: no --input is a folder of images",
        ),
        (
            ["--input", "{at}/a.tar", "--metadata", "{at}/no*.parquet"],
            "--metadata .* there is no such file; give parquet files",
        ),
        (
            ["--input", "{at}/a.tar", "--max-bad-fraction", "2"],
            "--max-bad-fraction 2: give a number in 0..1",
        ),
        (
            ["--input", "{at}/a.tar", "--min-sde", "2"],
            "unknown flag --min-sde: did you mean --min-side",
        ),
        (
            ["--input", "{at}/a.tar", "--blocked-sources", "{at}/none.txt"],
            "blocked sources .*none.txt cannot be read",
        ),
        (
            ["--input", "{at}/a.tar", "--filters", "{at}/none.yaml"],
            "none.yaml cannot be read",
        ),
        (
            ["--input", "{at}/a.tar", "--direct_num_workers", "two"],
            "Apache Beam refuses its options",
        ),
        (["--input", "{at}/a.tar", "--threads", "0"], "--threads 0: give a number in 1..256"),
        (
            ["--input", "{at}/a.tar", "--keep-exact"],
            "keep_exact keeps images that near_radius = 12 would drop",
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


def test_beam_s_flags_are_known_without_beam():
    """The list must be complete, because the parser refuses unknown flags."""
    taken = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    for kind in PipelineOptions.__subclasses__():
        if "_add_argparse_args" in vars(kind):
            kind._add_argparse_args(taken)
    flags = {*taken._option_string_actions}
    assert len(flags) > 100
    assert [flag for flag in flags if not command.is_beams(flag)] == []
    assert not command.is_beams("--min-sde")


def test_small_inputs_share_a_shard():
    units = [Unit("tar", f"{i}", f"{i}", size) for i, size in enumerate((30, 30, 50, 10, 200, 5))]
    assert groups(units, 100) == [range(0, 3), range(3, 5), range(5, 6)]
    assert [list(g) for g in groups(units, 1)] == [[i] for i in range(6)]


def test_somebody_elses_directory_stays(tmp_path):
    tar(tmp_path / "a.tar", sample(0))
    (tmp_path / "D.build").mkdir()
    (tmp_path / "D.build" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="exists and does not belong to a build"):
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
    """Key, caption and URL decide, and not the name of the tar."""
    kept = []
    for names in (("a", "b"), ("b", "a")):
        root = tmp_path / "-".join(names)
        root.mkdir()
        for name, key, caption in zip(names, ("777", "000"), (b"second", b"first"), strict=True):
            tar(root / f"{name}.tar", [(f"{key}.jpg", jpeg(1)), (f"{key}.txt", caption)])
        kept.append(build(root / "D", "--input", f"{root}/*.tar")[0])
    assert kept[0] == kept[1]
    assert len(kept[0]) == 1
