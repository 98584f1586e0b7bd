"""Test which image formats are read, and that all others are counted by name."""

import importlib
import struct
from collections import Counter

import numpy as np
import pytest
from image_shards import encoded, keys
from odd_images import saved
from PIL import Image

from data_pipeline.builder.measure import look
from data_pipeline.images import formats
from data_pipeline.images.decode import decode_rgb, open_image
from data_pipeline.images.formats import TYPES, UnsupportedError, kind_of
from data_pipeline.io.errors import InputError
from data_pipeline.packing.pack import pack
from data_pipeline.sources.items import Item, Place


def brand(major, *others):
    names = major + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(names)) + b"ftyp" + names + bytes(40)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
UNREAD = {
    "JPEG XL": (b"\xff\x0a" + bytes(40), b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40)),
    "JPEG XR": (b"II\xbc\x01" + bytes(40),),
    "SVG": (
        SVG,
        b"\xef\xbb\xbf \n<?xml version='1.0'?>\n<!-- one -->" + SVG,
        b"<!DOCTYPE svg PUBLIC 'x'>" + SVG,
    ),
    "GIF": (b"GIF89a" + bytes(40), b"GIF87a" + bytes(40)),
    "BMP": (b"BM" + bytes(40),),
    "TIFF": (b"II*\0" + bytes(40), b"MM\0*" + bytes(40)),
    "BigTIFF": (b"II+\0" + bytes(40),),
    "Photoshop": (b"8BPS" + bytes(40),),
    "ICO": (b"\0\0\1\0" + bytes(40),),
    "QOI": (b"qoif" + bytes(40),),
    "OpenEXR": (b"\x76\x2f\x31\x01" + bytes(40),),
    "PDF": (b"%PDF-1.7" + bytes(40),),
    "MP4": (brand(b"isom", b"mp42"), brand(b"qt  ")),
    "camera raw": (brand(b"crx ", b"isom"), b"IIRO" + bytes(40), b"IIU\0" + bytes(40)),
    "HEIF": (brand(b"mif1", b"miaf"),),
    "gzip": (b"\x1f\x8b\x08" + bytes(40),),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_a_format_that_is_not_read_is_named(kind):
    for data in UNREAD[kind]:
        assert kind_of(data) == kind
        with pytest.raises(
            UnsupportedError, match=f"unsupported format {kind}: .* are supported"
        ) as e:
            open_image(data)
        assert e.value.kind == kind
        facts = look(Item("k", data, "c", "", {}, Place("f", 0, 1)), 0, 10**6, 10**6)
        assert facts.problem == f"unsupported_format_{kind}".replace(" ", "_")


@pytest.mark.parametrize("data", [b"", b"<html><body>404</body></html>", b"no image", bytes(99)])
def test_what_is_no_image_is_not_a_format(data):
    assert kind_of(data) == ""
    with pytest.raises(InputError, match="not a readable PNG, JPEG, WebP") as e:
        open_image(data)
    assert not isinstance(e.value, UnsupportedError)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "JPEG2000", "HEIF"])
def test_what_is_read(kind):
    if kind == "HEIF":
        assert formats.has_heif()
    smooth = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = Image.fromarray(smooth).resize((64, 48), Image.Resampling.BICUBIC)
    opened = open_image(saved(image, kind))
    assert opened.format == kind
    assert TYPES[kind][0].startswith("image/")
    found = np.asarray(decode_rgb(opened), int)
    assert found.shape == (48, 64, 3)
    assert np.abs(found - np.asarray(image, int)).mean() < 8


def test_heic_without_the_library_that_reads_it(monkeypatch, tmp_path):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    formats.has_heif.cache_clear()
    try:
        with pytest.raises(
            UnsupportedError, match=r"format HEIC: to read it, pip install 'cv3jax\[heic\]'"
        ):
            open_image(brand(b"heic", b"mif1"))
        assert "HEIC" not in formats.listed()
    finally:
        formats.has_heif.cache_clear()


def test_a_folder_counts_them_by_name(tmp_path):
    files = {
        "a.png": encoded(1),
        "b.gif": UNREAD["GIF"][0],
        "c.jxl": UNREAD["JPEG XL"][1],
        "d.svg": SVG,
        "e.jpg": UNREAD["PDF"][0],  # whatever it is called
        "f.tif": UNREAD["TIFF"][1],
        "g.avif": saved(Image.new("RGB", (8, 8), "red"), "AVIF"),
        "h.jp2": saved(Image.new("RGB", (8, 8), "red"), "JPEG2000"),
        "i.JPF": saved(Image.new("RGB", (8, 8), "red"), "JPEG2000"),
        "j.HIF": saved(Image.new("RGB", (8, 8), "red"), "HEIF"),
        "k.CR2": UNREAD["TIFF"][0],
        "l.orf": UNREAD["camera raw"][1],
        "m.qoi": UNREAD["QOI"][0],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).with_suffix(".txt").write_text("a caption")
    report = pack(tmp_path, tmp_path / "out", shards=1)
    assert keys(tmp_path / "out") == ["a", "g", "h", "i", "j"]
    kinds = ("GIF", "JPEG XL", "PDF", "SVG", "TIFF", "TIFF", "QOI", "camera raw")
    counts = Counter(f"unsupported format {kind}" for kind in kinds)
    assert report["skipped"] == dict(counts)
