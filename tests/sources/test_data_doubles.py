"""Test that files that share a name and links to folders are read or counted."""

import tarfile

import pytest
from image_shards import encoded, keys, tar

from data_pipeline.builder.inputs import find_units, read_unit
from data_pipeline.io.errors import InputError
from data_pipeline.packing.pack import pack
from data_pipeline.sources import items
from data_pipeline.sources.items import DUPLICATE, LINKED, NO_CAPTION, NO_IMAGE, OUTSIDE, SECOND

JPG, PNG, GIF = encoded(1, "JPEG"), encoded(2), b"GIF89a" + bytes(40)
WEBP, TEXT = encoded(3, "WEBP"), b"a caption"


@pytest.mark.parametrize(
    ("files", "kept", "skipped"),
    [
        ([("a.jpg", JPG), ("a.png", PNG), ("a.txt", TEXT)], {"a": JPG}, {SECOND: 1}),
        ([("a.txt", TEXT), ("a.png", PNG), ("a.jpg", JPG)], {"a": PNG}, {SECOND: 1}),
        (
            [("a.webp", WEBP), ("a.png", PNG), ("a.jpeg", JPG), ("a.txt", TEXT)],
            {"a": WEBP},
            {SECOND: 2},
        ),
        # one that is read comes before one that is not
        ([("a.gif", GIF), ("a.jpg", JPG), ("a.txt", TEXT)], {"a": JPG}, {SECOND: 1}),
        ([("a.jpg", JPG), ("a.gif", GIF), ("a.txt", TEXT)], {"a": JPG}, {SECOND: 1}),
        ([("a.gif", GIF), ("a.txt", TEXT)], {}, {f"{items.UNSUPPORTED} GIF": 1}),
        # two shards that number alike, one behind the other
        (
            [("a.jpg", JPG), ("a.txt", TEXT), ("a.jpg", PNG), ("a.txt", b"another")],
            {"a": JPG},
            {DUPLICATE: 1},
        ),
        ([("a.jpg", JPG), ("a.JPG", PNG), ("a.txt", TEXT)], {"a": PNG}, {NO_CAPTION: 1}),
        ([("a.jpg", JPG), ("a.txt", TEXT), ("a.txt", b"new")], {"a": JPG}, {NO_IMAGE: 1}),
        (
            [("a.jpg", JPG), ("a.txt", TEXT), ("a.json", b"{}"), ("a.json", b"{}")],
            {"a": JPG},
            {NO_IMAGE: 1},
        ),
    ],
)
def test_names_that_come_twice_in_a_tar_are_counted(files, kept, skipped, tmp_path):
    tar(tmp_path / "x.tar", [*files, ("z.png", encoded(9)), ("z.txt", TEXT)])
    report = pack(tmp_path / "x.tar", tmp_path / "out", shards=1)
    assert keys(tmp_path / "out") == [*kept, "z"]
    assert report["skipped"] == skipped
    found = list(read_unit(find_units([str(tmp_path / "x.tar")], None)[0]))
    assert len(found) == len(kept) + 1 + sum(skipped.values())
    for item in found:
        if isinstance(item, items.Item) and item.key in kept:
            assert item.image in (kept[item.key], GIF, PNG)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_in_a_tar_are_counted(kind, tmp_path):
    """The program tar stores a file a second time, under another name, as a link."""
    tar(tmp_path / "x.tar", [("a.jpg", JPG), ("a.txt", TEXT)])
    with tarfile.open(tmp_path / "x.tar", "a") as file:
        for name, target in (("b.jpg", "a.jpg"), ("c/d.GIF", "../e.gif"), ("holiday", "/photos")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            file.addfile(link)
    report = pack(tmp_path / "x.tar", tmp_path / "out", shards=1)
    assert keys(tmp_path / "out") == ["a"]
    folders = {LINKED: 1} if kind == tarfile.SYMTYPE else {}  # a folder has no second name
    assert report["skipped"] == {items.UNREADABLE: 2, **folders}


def test_a_text_that_is_too_large_hides_no_image(tmp_path, monkeypatch):
    monkeypatch.setattr(items, "MAX_TEXT_BYTES", 10)
    files = [("a.txt", b"x" * 20), ("a.jpg", JPG), ("b.jpg", JPG), ("b.txt", b"x")]
    tar(tmp_path / "x.tar", files)
    report = pack(tmp_path / "x.tar", tmp_path / "out", shards=1)
    assert report["skipped"] == {items.TOO_LARGE: 1}


def test_links_to_folders_are_counted_and_not_followed(tmp_path):
    src, elsewhere = tmp_path / "src", tmp_path / "elsewhere"
    for place in (src / "real", elsewhere):
        place.mkdir(parents=True)
        (place / "a.png").write_bytes(PNG)
        (place / "a.txt").write_bytes(TEXT)
    for name, target in (
        ("same", src / "real"),
        ("holiday.2024", elsewhere),
        (".hidden", elsewhere),
    ):
        (src / name).symlink_to(target)
    (src / "real" / "up").symlink_to(src)
    report = pack(src, tmp_path / "out", shards=1)
    assert keys(tmp_path / "out") == ["real/a"]
    assert report["skipped"] == {LINKED: 2, OUTSIDE: 1}
    assert "same: same: links to folders are not followed" in report["examples"][LINKED]
    found = [item for unit in find_units([str(src)], None) for item in read_unit(unit)]
    assert sorted(item.key for item in found) == ["holiday", "real/a", "real/up", "same"]


def test_a_folder_that_is_nothing_but_links_is_refused_as_before(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "link").symlink_to(tmp_path)
    (tmp_path / "src" / "b.gif").write_bytes(GIF)
    with pytest.raises(InputError, match="holds no images"):
        pack(tmp_path / "src", tmp_path / "out")


def test_pictures_that_are_not_read_do_not_make_a_folder_of_tars_one_of_images(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    tar(src / "x.tar", [("a.png", PNG), ("a.txt", TEXT)])
    (src / "logo.svg").write_bytes(b"<svg/>")
    assert pack(src, tmp_path / "out", shards=1)["records"] == 1
