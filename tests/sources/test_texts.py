"""Test the decoding of captions in all sources.

The tests cover encodings with and without a mark, invisible characters, names in any case, and
several captions.
"""

import json

import pyarrow
import pytest
from image_shards import encoded, tar
from pyarrow import parquet

from data_pipeline.builder.inputs import find_units, read_unit
from data_pipeline.packing.pack import pack
from data_pipeline.records.records import captions, open_records
from data_pipeline.sources import items
from data_pipeline.sources.items import Item, Place, make_item
from data_pipeline.sources.texts import tidy

IMAGE = items.Image(b"image", Place("f", 0, 5))


def made(data):
    item = make_item("k", IMAGE, {"txt": data})
    return item.caption if isinstance(item, Item) else item.reason


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfein B\xc3\xa4r\r\n",
        "ein Bär".encode("utf-16"),
        "\ufeffein Bär".encode("utf-16-be"),
        "ein Bär".encode("utf-32"),
        "ein Bär\0\0\0".encode(),
        "\u200bein Bär\u2060\n".encode(),
    ],
)
def test_a_caption_in_any_encoding(data):
    assert made(data) == "ein Bär"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("\u200b\u200d\ufeff".encode(), items.NO_CAPTION),
        ("\u00ad \u2800\u3164\n".encode(), items.NO_CAPTION),
        ("\u200e\u202e\u0301\ufe0f".encode(), items.NO_CAPTION),
        (b"\0\0", items.NO_CAPTION),
        (b"\xef\xbb\xbf", items.NO_CAPTION),
        ("ein Bär".encode("utf-16-le"), items.BAD_TEXT),
        ("ein Bär".encode("cp1252"), items.BAD_TEXT),
        (b"one\0two", items.BAD_TEXT),
        (b"\xff\xfea", items.BAD_TEXT),
    ],
)
def test_a_caption_that_is_none(data, reason):
    assert made(data) == reason


@pytest.mark.parametrize("text", ["a", "7", "?", "\U0001f9ff", "\u4e00", "\ue000", "\U0001fae9"])
def test_what_shows_something_stays(text):
    assert tidy(f" {text}\ufeff") == text


def test_the_json_is_read_in_any_encoding():
    fields = json.dumps({"Caption": "ä"}, ensure_ascii=False)
    for codec in ("utf-8-sig", "utf-16", "utf-32"):
        assert make_item("k", IMAGE, {"json": fields.encode(codec)}).caption == "ä"
    wrong = make_item("k", IMAGE, {"json": b'{"caption": {"en": "x"}}'})
    assert (wrong.reason, wrong.detail) == (items.BAD_TEXT, "caption = {'en': 'x'} is not text")


def test_names_in_any_case(tmp_path):
    for name, suffixes in (
        ("a", "TXT JSON"),
        ("b", "Txt Json"),
        ("c", "txt json"),
        ("d", "TXT txt"),
    ):
        (tmp_path / f"{name}.PNG").write_bytes(encoded(ord(name)))
        text, other = suffixes.split()
        (tmp_path / f"{name}.{text}").write_text("caption")
        (tmp_path / f"{name}.{other}").write_text('{"URL": "http://u"}')
    report = pack(tmp_path, tmp_path / "out", shards=1)
    found = {record["key"]: record["url"] for record in open_records(tmp_path / "out")}
    assert found == dict.fromkeys("abc", "http://u") | {"d": ""}
    assert report["skipped"] == {items.NO_IMAGE: 1}  # of two texts that differ in case one is read


@pytest.mark.parametrize("place", ["one/A.TAR", "one/A.PARQUET"])
def test_files_of_a_folder_in_any_case(place, tmp_path):
    path = tmp_path / place
    path.parent.mkdir()
    if path.suffix == ".TAR":
        tar(path, [("a.png", encoded(1)), ("a.TXT", b"caption")])
        assert pack(path.parent, tmp_path / "out", shards=1)["records"] == 1
    else:
        parquet.write_table(pyarrow.table({"PNG": [encoded(1)], "Caption": ["caption"]}), path)
    for given in (path, path.parent):
        (unit,) = find_units([str(given)], None)
        assert [item.caption for item in read_unit(unit)] == ["caption"]


@pytest.mark.parametrize("kind", ["tar", "folder", "jsonl", "parquet"])
def test_several_captions_are_kept_alike(kind, tmp_path):
    source, fields = tmp_path / "S", {"Caption": ["one", " ", "two", "three\ufeff", "one"]}
    source.mkdir()
    if kind == "parquet":
        parquet.write_table(
            pyarrow.table({"png": [encoded(1)], "Caption": [fields["Caption"]]}),
            source / "a.parquet",
        )
        (unit,) = find_units([str(source)], None)
        (item,) = read_unit(unit)
        assert (item.caption, *item.others) == ("one", "two", "three")
        return
    if kind == "tar":
        tar(source / "a.tar", [("a.png", encoded(1)), ("a.json", json.dumps(fields).encode())])
    else:
        (source / "a.png").write_bytes(encoded(1))
        name = "metadata.jsonl" if kind == "jsonl" else "a.json"
        (source / name).write_text(json.dumps({"file_name": "a.png", **fields}))
    pack(source, tmp_path / "out", shards=1)
    (record,) = open_records(tmp_path / "out")
    assert captions(record) == ["one", "two", "three"]
    assert json.loads(record["scores"]) == {"captions": ["two", "three"]}


def test_pack_counts_what_it_does_not_understand(tmp_path, capsys):
    from data_pipeline.cli import main

    for i, fields in enumerate(({"url": {"a": 1}}, {"URL": 7, "NSFW": 0.5}, {"url": "http://u"})):
        (tmp_path / f"{i}.png").write_bytes(encoded(i))
        (tmp_path / f"{i}.json").write_text(json.dumps({"caption": "x", **fields}))
    main(["pack", "--input", str(tmp_path), "--out", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "pack_report.json").read_text())["unreadable"] == {
        "nsfw": {"items": 1, "example": "NSFW = 0.5"},
        "url": {"items": 2, "example": "url = {'a': 1}"},
    }
    assert "not understood 2: url (such as url = {'a': 1})" in capsys.readouterr().out
