"""Test packing of folders, metadata.jsonl and img2dataset tars, with every reason for a skip."""

import io
import json
import tarfile
import zlib

import numpy as np
import pytest
from image_shards import encoded, keys, tar
from PIL import Image

from data_pipeline.images import decode
from data_pipeline.images.decode import decode_rgb, encode_png, open_image, upright_size
from data_pipeline.io.errors import InputError
from data_pipeline.packing.pack import REPORT, pack
from data_pipeline.records.records import open_records
from data_pipeline.sources import items


def test_folder_with_every_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(items, "MAX_TEXT_BYTES", 20_000)
    src = tmp_path / "src"
    (src / "sub").mkdir(parents=True)
    (src / ".hidden").mkdir()
    for name, data in {
        "b.png": encoded(1),
        "b.txt": b" a caption \n",
        "b.json": (
            json.dumps(
                {
                    "url": "http://u",
                    "similarity": 0.3,
                    "width": 9,
                    "original_height": 7,
                    "nsfw": "no",
                    "ok": True,
                    "x": 1e999,
                }
            ).encode()
        ),
        "a.JPG": encoded(2, "JPEG"),
        "a.txt": "ein Bär".encode(),
        "sub/c.webp": encoded(3, "WEBP"),
        "sub/c.json": json.dumps({"caption": "from the json"}).encode(),
        "dup.png": encoded(4),
        "dup.jpg": encoded(5, "JPEG"),
        "dup.txt": b"two images, one name",
        "empty.png": encoded(6),
        "empty.txt": b"  \n",
        "none.png": encoded(7),
        "alone.txt": b"no image",
        "broken.png": encoded(8)[:60],
        "broken.txt": b"x",
        "notimage.png": b"GIF89a......",
        "notimage.txt": b"x",
        "large.png": encoded(9, size=(40, 40)),
        "large.txt": b"x",
        "latin.png": encoded(10),
        "latin.txt": "Bär".encode("latin-1"),
        "surrogate.png": encoded(10),
        "surrogate.json": b'{"caption": "\\ud83d"}',
        "long.png": encoded(11),
        "long.txt": b"x" * 10_000,
        "hugetext.png": encoded(12),
        "hugetext.txt": b"x" * 30_000,
        ".hidden/h.png": encoded(13),
        "readme.md": b"hello",
    }.items():
        (src / name).write_bytes(data)
    report = pack(src, tmp_path / "out", shards=1, max_pixels=1000)
    assert keys(tmp_path / "out") == ["a", "b", "dup", "sub/c"]
    assert report["skipped"] == {
        items.DUPLICATE: 1,
        items.NO_CAPTION: 2,
        items.NO_IMAGE: 1,
        items.UNDECODABLE: 1,
        f"{items.UNSUPPORTED} GIF": 1,
        items.TOO_LARGE: 2,
        items.BAD_TEXT: 2,
        items.LONG_CAPTION: 1,
    }
    assert any("40x40" in line for line in report["examples"][items.TOO_LARGE])
    assert json.loads((tmp_path / "out" / REPORT).read_text()) == report
    a, b, _, c = open_records(tmp_path / "out")
    assert (a["caption"], b["caption"], c["caption"]) == ("ein Bär", "a caption", "from the json")
    assert b["image"] == encoded(1)
    assert b["url"] == "http://u"
    assert json.loads(b["scores"]) == {"nsfw": "no", "similarity": 0.3}


def test_tars(tmp_path, monkeypatch):
    monkeypatch.setattr(items, "MAX_IMAGE_BYTES", 5000)
    src = tmp_path / "src"
    src.mkdir()
    meta = json.dumps(
        {
            "caption": "json caption",
            "url": "http://u/1",
            "aesthetic": 5.5,
            "pwatermark": 0.1,
            "width": 3,
        }
    ).encode()
    tar(
        src / "00001.tar",
        [
            ("000010002.jpg", encoded(1, "JPEG")),
            ("000010002.json", meta),
            ("000010001.png", encoded(2)),
            ("000010001.txt", b"again"),
        ],
    )
    tar(
        src / "00000.tar",
        [
            ("000010001.webp", encoded(3, "WEBP")),
            ("000010001.txt", b"the text"),
            ("000010001.json", meta),
            ("nothing.txt", b"no image"),
            ("silent.png", encoded(4)),
            ("big.png", encoded(5, size=(80, 80))),
            ("big.txt", b"x"),
            ("badjson.png", encoded(6)),
            ("badjson.json", b"{"),
            ("listjson.png", encoded(6)),
            ("listjson.json", b"[1]"),
            ("other.cls", b"7"),
        ],
    )
    (src / "00000_stats.json").write_text("{}")
    report = pack(src, tmp_path / "out", shards=1)
    assert keys(tmp_path / "out") == ["000010001", "000010002"]
    first, second = open_records(tmp_path / "out")
    assert (first["caption"], second["caption"]) == ("the text", "json caption")
    assert second["url"] == "http://u/1"
    assert json.loads(second["scores"]) == {"aesthetic": 5.5, "pwatermark": 0.1}
    assert report["skipped"] == {
        items.DUPLICATE: 1,
        items.NO_IMAGE: 2,
        items.NO_CAPTION: 1,
        items.TOO_LARGE: 1,
        items.BAD_TEXT: 2,
    }
    assert report["kind"] == "tars"


def test_a_damaged_tar_does_not_stop_the_others(tmp_path):
    for i in range(2):
        tar(
            tmp_path / f"{i}.tar",
            [
                (f"{i}{j}.{ext}", data)
                for j in range(9)
                for ext, data in (("png", encoded(j)), ("txt", b"x"))
            ],
        )
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[: 4 * 1024 + 700])  # in the third image
    report = pack(tmp_path, tmp_path / "out", shards=1)
    assert report["skipped"] == {items.BAD_TAR: 1}
    assert "0.tar" in report["examples"][items.BAD_TAR][0]
    assert keys(tmp_path / "out")[-9:] == [f"1{j}" for j in range(9)]


def test_tar_members_that_are_not_files_are_never_followed(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(0))
    with tarfile.open(tmp_path / "a.tar", "w") as f:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(secret)
            f.addfile(member)
    with pytest.raises(InputError, match="nothing usable"):
        pack(tmp_path / "a.tar", tmp_path / "out")


def test_metadata_jsonl(tmp_path):
    src = tmp_path / "src"
    (src / "train").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(encoded(9))
    (src / "train" / "x.png").write_bytes(encoded(1))
    (src / "y.png").write_bytes(encoded(2))
    lines = [
        {"file_name": "train/x.png", "caption": "cap", "punsafe": 0.25},
        {"file_name": "y.png", "text": "hugging face style"},
        {"file_name": "y.png", "caption": "again"},
        {"file_name": "gone.png", "caption": "x"},
        {"file_name": "../outside.png", "caption": "x"},
        {"file_name": str(tmp_path / "outside.png"), "caption": "x"},
        {"file_name": 7},
        {"caption": "no name"},
    ]
    (src / "metadata.jsonl").write_text(
        "\n".join(json.dumps(line) for line in lines) + "\nnot json\n\n"
    )
    report = pack(src, tmp_path / "out", shards=1)
    assert [(r["key"], r["caption"], r["scores"]) for r in open_records(tmp_path / "out")] == [
        ("train/x", "cap", '{"punsafe": 0.25}'),
        ("y", "hugging face style", "{}"),
    ]
    assert report["skipped"] == {
        items.MISSING: 1,
        items.OUTSIDE: 2,
        items.BAD_TEXT: 3,
        items.DUPLICATE: 1,
    }


def test_extreme_aspect_ratios_are_left_out(tmp_path):
    for name, size in (("a", (16, 2)), ("b", (17, 2)), ("c", (2, 17)), ("strip", (60_000, 1))):
        (tmp_path / f"{name}.png").write_bytes(saved(Image.new("RGB", size)))
        (tmp_path / f"{name}.txt").write_text("caption")
    report = pack(tmp_path, tmp_path / "out", shards=1)
    assert keys(tmp_path / "out") == ["a"]
    assert report["skipped"] == {items.TOO_LONG: 3}
    assert "strip: 60000x1 pixels, at most 8:1" in report["examples"][items.TOO_LONG]


def test_the_result_does_not_depend_on_workers(tmp_path):
    for i in range(30):
        (tmp_path / f"{i:02}.png").write_bytes(encoded(i))
        (tmp_path / f"{i:02}.txt").write_text(f"caption {i}")
    pack(tmp_path, tmp_path / "a.d", workers=1)
    pack(tmp_path, tmp_path / "b.d", workers=7)
    assert list(open_records(tmp_path / "a.d")) == list(open_records(tmp_path / "b.d"))


def test_unusable_sources(tmp_path):
    with pytest.raises(InputError, match="no source at"):
        pack(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "src").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        pack(tmp_path / "src", tmp_path / "out")
    (tmp_path / "src" / "a.png").write_bytes(b"broken")
    (tmp_path / "src" / "a.txt").write_bytes(b"caption")
    with pytest.raises(InputError, match=r"nothing usable.*1 × undecodable.*first: a"):
        pack(tmp_path / "src", tmp_path / "out")
    tar(tmp_path / "src" / "x.tar", [("a.png", encoded(1))])
    with pytest.raises(InputError, match="both tars and images"):
        pack(tmp_path / "src", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def saved(image, fmt="PNG", **kwargs):
    out = io.BytesIO()
    image.save(out, fmt, **kwargs)
    return out.getvalue()


def test_every_kind_of_image_becomes_rgb():
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    sixteen = Image.fromarray(np.full((4, 4), 0x8080, np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 90° clockwise
    wide = Image.new("RGB", (6, 2))
    wide.putpixel((0, 0), (255, 255, 255))
    for data, size, top_right in (
        (saved(half), (4, 4), (255, 127, 127)),
        (saved(Image.new("LA", (4, 4), (0, 0))), (4, 4), (255, 255, 255)),
        (saved(palette), (4, 4), (10, 20, 30)),
        (saved(palette, transparency=1), (4, 4), (255, 255, 255)),
        (saved(sixteen), (4, 4), (128, 128, 128)),
        (saved(Image.new("L", (4, 4), 77)), (4, 4), (77, 77, 77)),
        (saved(Image.new("1", (4, 4), 1)), (4, 4), (255, 255, 255)),
        (saved(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG"), (8, 8), (0, 0, 0)),
        (saved(wide, exif=exif), (2, 6), (255, 255, 255)),
        (saved(half, "WEBP", lossless=True), (4, 4), (255, 127, 127)),
    ):
        opened = open_image(data)
        height, width = upright_size(opened)
        image = decode_rgb(opened)
        assert (image.mode, image.size) == ("RGB", size)
        assert (width, height) == size
        assert image.getpixel((size[0] - 1, 0)) == pytest.approx(top_right, abs=1)


def test_bounds_on_pixels_and_bytes():
    bomb = bytearray(encode_png(np.zeros((4, 4, 3), np.uint8)))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # the header claims 3.6 billion pixels
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(decode.TooLargeError, match=r"of more than .* pixels; the limit is 67,108"):
        open_image(bytes(bomb))
    with pytest.raises(decode.TooLargeError, match="20x20"):
        open_image(encoded(0, size=(20, 20)), max_pixels=399)
    open_image(encoded(0, size=(20, 20)), max_pixels=400)
    with pytest.raises(decode.TooLargeError, match="bytes"):
        open_image(encoded(0), max_bytes=100)
    with pytest.raises(InputError, match="not a readable"):
        open_image(b"no image")
