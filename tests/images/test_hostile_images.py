"""Test images that would cost their decoder all memory, or minutes: each is counted and named."""

import resource
import time

import hostile_images
import numpy as np
import pytest
from build_inputs import build
from image_shards import keys, tar
from odd_images import exif, saved
from PIL import Image

from data_pipeline.builder.measure import look
from data_pipeline.images import bounds
from data_pipeline.images.decode import (
    MAX_IMAGE_BYTES,
    MAX_PIXELS,
    decode_rgb,
    open_image,
    orientation,
)
from data_pipeline.packing.pack import pack
from data_pipeline.sources.items import Item, Place

GIB = 2**30
SECONDS = 5  # of a core, where the worst would take minutes


@pytest.mark.parametrize("kind", hostile_images.HOSTILE)
def test_images(kind):
    make, expected = hostile_images.HOSTILE[kind]
    item = Item("key", make(), "caption", "", {}, Place("file", 0, 1))
    before, start = resource.getrlimit(resource.RLIMIT_AS), time.thread_time()
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2 * GIB, before[1]))
    try:
        facts = look(item, 0, MAX_IMAGE_BYTES, MAX_PIXELS)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert facts.problem == expected
    assert time.thread_time() - start < SECONDS
    assert len(facts.detail) <= 300
    assert bool(facts.detail) == bool(expected)


def test_they_are_counted_and_the_rest_is_kept(tmp_path):
    files = [("a.jpg", hostile_images.scans(300, 64)), ("b.png", hostile_images.png(1, 2**26))]
    files += [("c.png", saved(Image.fromarray(np.arange(48 * 64, dtype=np.uint8).reshape(48, 64))))]
    tar(tmp_path / "x.tar", [each for f in files for each in (f, (f"{f[0][0]}.txt", b"a caption"))])
    records, report = build(tmp_path / "D", "--input", f"{tmp_path}/x.tar")
    assert list(records) == ["c"]
    assert report["dropped"] == {"decompression_bomb": 1, "too_costly": 1}
    assert report["examples"]["too_costly"][0]["key"] == "a"
    packed = pack(tmp_path / "x.tar", tmp_path / "P")
    assert keys(tmp_path / "P") == ["c"]
    assert packed["skipped"] == {"too costly": 1, "too large": 1}
    assert packed["examples"]["too costly"] == ["a: JPEG of 310 scans; the limit is 100"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_time_of_a_decode_is_bounded(kind, monkeypatch):
    """It is counted from the decode on, whatever the thread did since the file was opened."""
    data = saved(Image.effect_noise((600, 600), 90), kind)
    clock = [0.0]
    monkeypatch.setattr(bounds.time, "thread_time", lambda: clock[0])
    opened = open_image(data)
    clock[0] += 1000
    decode_rgb(opened)

    def slow(self, size=-1, read=bounds.Watched.read):
        clock[0] += 20
        return read(self, size)

    opened = open_image(data)
    monkeypatch.setattr(bounds.Watched, "read", slow)
    with pytest.raises(bounds.TooCostlyError, match=r"^image that takes more than 30 s to decode$"):
        decode_rgb(opened)


def test_the_orientation_is_read_from_an_exif_block_of_any_cost():
    block = hostile_images.exif_bomb(60_000, 2**20)
    first = exif(6)[6:]
    whole = block[:14] + (60_001).to_bytes(2, "little") + first[10:22] + block[16:]
    assert bounds.exif_cost(whole) > 50 * GIB
    image = open_image(hostile_images.webp_with(b"EXIF", whole))
    assert decode_rgb(image).size == (16, 16)
    assert bounds.orientation_alone(whole)[10:22] == first[10:22]
    plain = hostile_images.jpeg_with((0xE1, exif(6)), (0xE1, b"Exif\0\0" + bytes(100)))
    assert orientation(open_image(plain)) == 6
