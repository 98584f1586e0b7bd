"""Test images with good pixels and odd metadata.

Pictures are turned only by their orientation tag. Transparent colours have the file's own bit
depth. Large texts and profiles do not make a picture unreadable.
"""

import struct
import zlib

import numpy as np
import pytest
from odd_images import chunk, exif, png, rgb_profile, saved
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngImageFile

from data_pipeline.images.decode import (
    decode_rgb,
    encode_png,
    is_animated,
    open_image,
    upright_size,
)
from data_pipeline.images.formats import TYPES
from data_pipeline.io.errors import InputError

# tags that Pillow reads and cannot write again: (tag, type, count, value)
UNWRITABLE = {
    "text for a number": (258, 2, 4, b"abc\0"),
    "bytes for a number": (256, 7, 3, b"abc"),
    "a negative number": (259, 8, 1, struct.pack("<h", -5)),
    "not a number": (283, 11, 1, struct.pack("<f", float("nan"))),
    "text for a fraction": (282, 2, 4, b"abc\0"),
    "a fraction of a number": (296, 11, 1, struct.pack("<f", 2.5)),
    "a negative fraction": (282, 10, 1, struct.pack("<ii", -1, 2)),
}
QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
# what each orientation makes of them
TURNED = {
    1: QUARTERS,
    2: QUARTERS[:, ::-1],
    3: QUARTERS[::-1, ::-1],
    4: QUARTERS[::-1],
    5: QUARTERS.swapaxes(0, 1),
    6: np.rot90(QUARTERS, -1),
    7: np.rot90(QUARTERS, 2).swapaxes(0, 1),
    8: np.rot90(QUARTERS),
}


def pixels(data):
    return np.asarray(decode_rgb(open_image(data)), int)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_tag_that_cannot_be_written_costs_no_picture(name, kind):
    large = Image.fromarray(np.kron(QUARTERS[:1], np.ones((32, 32, 1), np.uint8)))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind != "PNG" else {}
    data = saved(large, kind, exif=exif(6, UNWRITABLE[name]), **options)
    assert upright_size(open_image(data)) == (64, 32)
    found = pixels(data)
    assert found.shape == (64, 32, 3)
    assert np.abs(found[16::32, 16] - [[255, 0, 0], [0, 255, 0]]).max() < 30


@pytest.mark.parametrize("orientation", TURNED)
def test_every_orientation(orientation):
    data = saved(Image.fromarray(QUARTERS), exif=exif(orientation))
    np.testing.assert_array_equal(pixels(data), TURNED[orientation])


@pytest.mark.parametrize("kind", ["AVIF", "HEIF", "WEBP"])
def test_other_formats_are_upright_too(kind):
    large = Image.fromarray(np.kron(QUARTERS, np.ones((32, 32, 1), np.uint8)))
    data = saved(large, kind, exif=exif(6), quality=95)
    assert upright_size(open_image(data)) == (64, 64)
    assert np.abs(pixels(data)[16::32, 16::32] - TURNED[6]).max() < 60


@pytest.mark.parametrize(
    "block",
    [exif(0), exif(9), exif(65535), b"Exif\0\0nothing", b"Exif\0\0II*\0\xff\xff\xff\xff", b""],
)
def test_an_orientation_that_is_none_leaves_the_picture_as_it_is(block):
    data = saved(Image.fromarray(np.kron(QUARTERS[:1], np.ones((16, 16, 1), np.uint8))), "JPEG")
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    assert upright_size(open_image(data)) == (16, 32)
    assert pixels(data).shape == (16, 32, 3)


GREY16 = struct.pack(">4H", 0, 0x8000, 0x8080, 0xFFFF)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "clear", "seen"),
    [
        (1, 0, b"\x40", (0,), [255, 255]),
        (1, 0, b"\x40", (1,), [0, 255]),
        (2, 0, b"\x1b", (1,), [0, 255, 170, 255]),
        (2, 0, b"\x1b", (2,), [0, 85, 255, 255]),
        (4, 0, b"\x3f", (3,), [255, 255]),
        (4, 0, b"\x31", (15,), [51, 17]),
        (8, 0, b"\x10\x20", (16,), [255, 32]),
        (16, 0, GREY16, (0x8080,), [0, 128, 255, 255]),
        (16, 0, GREY16, (0,), [255, 128, 128, 255]),
        (16, 0, GREY16, (0x0101,), [0, 128, 128, 255]),
        (8, 2, b"\1\2\3\4\5\6", (1, 2, 3), [(255, 255, 255), (4, 5, 6)]),
        (16, 2, GREY16[:6] + GREY16[2:], (0x8000, 0x8080, 0xFFFF), [(0, 128, 128), (255,) * 3]),
    ],
)
def test_a_transparent_colour_is_white(depth, colour, row, clear, seen):
    data = png(depth, colour, [row], chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)))
    found = pixels(data)[0, : len(seen)]
    wanted = np.array([np.broadcast_to(one, 3) for one in seen])
    np.testing.assert_allclose(found, wanted, atol=1)


def text(kind, words, packed=True):
    if kind == b"iTXt":
        return chunk(kind, b"k\0" + (b"\1\0" if packed else b"\0\0") + b"\0\0" + words)
    return chunk(kind, b"k\0" + (b"\0" if packed else b"") + words)


LONG = zlib.compress(b"x" * 3 * 2**20)
MANY = text(b"zTXt", zlib.compress(b"x" * 2**20)) * 70
EXTRAS = {
    "zTXt": text(b"zTXt", LONG),
    "iTXt": text(b"iTXt", LONG),
    "many texts": MANY,
    "tEXt": text(b"tEXt", b"x" * 2**21, packed=False),
    "a text that is damaged": text(b"zTXt", b"\0damaged"),
    "a text with a wrong checksum": text(b"tEXt", b"x", packed=False)[:-4] + bytes(4),
    "a short pHYs": chunk(b"pHYs", b"\0"),
    "another program's": chunk(b"prVt", b"\xff" * 99),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("name", EXTRAS)
def test_what_is_beside_the_pixels_of_a_png_costs_no_picture(name, place):
    extra = EXTRAS[name]
    data = png(8, 0, [b"\1\2"], extra) if place == "before" else png(8, 0, [b"\1\2"], after=extra)
    np.testing.assert_array_equal(pixels(data)[0], [[1] * 3, [2] * 3])


@pytest.mark.parametrize("packed", [True, False])
def test_a_text_that_tells_the_orientation_is_read(packed):
    xmp = b'<x:xmpmeta xmlns:tiff="t"><tiff:Orientation>8</tiff:Orientation></x:xmpmeta>'
    words = zlib.compress(xmp) if packed else xmp
    body = b"XML:com.adobe.xmp\0" + (b"\1\0" if packed else b"\0\0") + b"\0\0" + words
    data = png(8, 0, [b"\1\2"], chunk(b"iTXt", body), text(b"zTXt", LONG))
    np.testing.assert_array_equal(pixels(data)[:, 0, 0], [2, 1])


def test_a_large_profile_is_read():
    large = rgb_profile(1.0, (1, 0, 2)) + bytes(2**21)
    packed = chunk(b"iCCP", b"p\0\0" + zlib.compress(large))
    red = pixels(png(8, 2, [b"\xff\0\0"], packed))
    np.testing.assert_allclose(red[0, 0], [0, 255, 0], atol=3)


def test_damaged_pixels_are_still_refused():
    data = png(8, 0, [b"\1\2"] * 50, text(b"zTXt", LONG))
    with pytest.raises(InputError):
        pixels(data[:-30])
    with pytest.raises(InputError):
        pixels(data.replace(b"IDAT", b"IDAU"))


def test_a_photograph_with_its_own_preview_is_a_jpeg():
    one = Image.new("RGB", (8, 8), "red")
    opened = open_image(saved(one, "MPO", save_all=True, append_images=[one]))
    assert opened.format == "MPO"
    assert TYPES[opened.format] == TYPES["JPEG"]
    assert not is_animated(opened)


def test_damaged_pixels_are_damaged_also_after_the_size_was_asked_for():
    """A PNG's orientation may come after its pixels, so reading it loads them."""
    whole = encode_png(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))
    flipped = whole[:45] + bytes([whole[45] ^ 255]) + whole[46:]
    image = open_image(flipped)
    with pytest.raises(InputError, match="damaged image data"):
        upright_size(image)
    with pytest.raises(InputError, match="damaged image data"):
        decode_rgb(open_image(flipped))
    assert upright_size(open_image(whole)) == (16, 16)


STEPS = [  # of decoding, each with what of Pillow it calls
    (open_image, Image, "open"),
    (lambda data: upright_size(open_image(data)), Image.Exif, "load"),
    (lambda data: is_animated(open_image(data)), PngImageFile, "n_frames"),
    (pixels, PngImageFile, "load"),
    (pixels, Image.Image, "transpose"),
    (pixels, ImageCms, "buildTransform"),
]


@pytest.mark.parametrize(("step", "of", "name"), STEPS)
def test_no_memory_is_no_damage(step, of, name, monkeypatch):
    data = saved(Image.fromarray(QUARTERS), exif=exif(6), icc_profile=rgb_profile(1.0))

    def full(*_, **__):
        raise MemoryError

    unread = property(full, lambda *_: None)
    monkeypatch.setattr(of, name, unread if name == "n_frames" else full, raising=False)
    with pytest.raises(MemoryError):
        step(data)
