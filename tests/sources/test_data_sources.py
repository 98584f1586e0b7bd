"""Test sources that are damaged, unreadable or hostile.

Each skipped item is counted and does not stop the others. No link leads outside the source.
"""

import json
import os
from pathlib import Path

import pytest
from image_shards import encoded, keys, tar

from data_pipeline.io.errors import InputError
from data_pipeline.packing.pack import REPORT, pack
from data_pipeline.sources import detect, items


def test_one_bad_line_of_metadata_jsonl_does_not_stop_the_rest(tmp_path, monkeypatch):
    for name in ("good.png", "locked.png"):
        (tmp_path / name).write_bytes(encoded(1))
    (tmp_path / "loop.png").symlink_to("loop.png")
    names = [
        "",
        ".",
        "loop.png",
        "locked.png",
        "a\x00b.png",
        "x" * 5000 + ".png",
        "\ud800.png",
        "good.png",
    ]
    lines = [json.dumps({"file_name": name, "caption": "x"}) for name in names]
    (tmp_path / "metadata.jsonl").write_text("\n".join(["[" * 100_000, "7", "[]", *lines]))
    refuse_to_read(monkeypatch, "locked.png")
    report = pack(tmp_path, tmp_path / "out", shards=1)
    assert keys(tmp_path / "out") == ["good"]
    assert report["skipped"][items.BAD_TEXT] == 5
    assert sum(report["skipped"].values()) == 10
    assert "locked: line 7: locked.png: Permission denied" in report["examples"][items.UNREADABLE]
    assert json.loads((tmp_path / "out" / REPORT).read_text()) == report

    def denied(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(InputError, match=r"metadata\.jsonl cannot be read \(Permission denied\)"):
        detect.open_source(tmp_path)


def refuse_to_read(monkeypatch, name):
    read = Path.read_bytes

    def read_bytes(path):  # and not chmod: the tests may run as root
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


def test_a_folder_with_unreadable_files_and_links(tmp_path, monkeypatch):
    src = tmp_path / "src"
    (src / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("the secret")
    (tmp_path / "outside.png").write_bytes(encoded(9))
    for name in ("good", "text", "locked", "meta", "sub/real"):
        (src / f"{name}.png").write_bytes(encoded(1))
        if name != "text":
            (src / f"{name}.txt").write_text("caption")
    (src / "text.txt").symlink_to(tmp_path / "secret")
    (src / "meta.json").symlink_to("../secret")
    for name, target in (
        ("image", "../outside.png"),
        ("loop", "loop.png"),
        ("dangling", "none.png"),
        ("inside", "sub/real.png"),
    ):
        (src / f"{name}.png").symlink_to(target)
        (src / f"{name}.txt").write_text("caption")
    os.mkfifo(src / "pipe.png")
    refuse_to_read(monkeypatch, "locked.png")
    report = pack(src, tmp_path / "out", shards=1)
    assert keys(tmp_path / "out") == ["good", "inside", "sub/real"]
    assert {
        k: sorted(line.partition(":")[0] for line in v) for k, v in report["examples"].items()
    } == {
        items.OUTSIDE: ["image", "meta", "text"],
        items.UNREADABLE: ["locked", "loop"],
        items.MISSING: ["dangling", "pipe"],
    }
    assert "the secret" not in json.dumps(report)
    (src / "metadata.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"metadata\.jsonl is a link to a file outside"):
        detect.open_source(src)


def test_a_folder_of_tars_with_links(tmp_path):
    (tmp_path / "src").mkdir()
    for place in (tmp_path / "src" / "a.tar", tmp_path / "outside.tar"):
        tar(place, [("a.png", encoded(1)), ("a.txt", b"caption")])
    (tmp_path / "src" / "b.tar").symlink_to("../outside.tar")
    (tmp_path / "src" / "c.tar").symlink_to("gone.tar")
    report = pack(tmp_path / "src", tmp_path / "out", shards=1)
    assert keys(tmp_path / "out") == ["a"]
    assert report["skipped"] == {items.OUTSIDE: 1, items.MISSING: 1}


def test_names_that_are_not_utf8_do_not_stop_the_report(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(1))
    (tmp_path / "a.txt").write_text("caption")
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("no image")
    report = pack(tmp_path, tmp_path / "out", shards=1)
    assert report["examples"] == {items.NO_IMAGE: [r"\udcff"]}
