"""Test `cv3jax data build` on truncated tars, damaged images, equal keys and changed inputs."""

import io
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from build_inputs import build, jpeg, sample
from image_shards import tar
from PIL import Image

from data_pipeline.builder.dedup import Entry, EntryCoder, clashes, pairs
from data_pipeline.builder.inputs import find_units, read_place, read_unit
from data_pipeline.builder.measure import look
from data_pipeline.io.errors import InputError
from data_pipeline.sources.items import Item, Place


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
        "l.tar": (["000", "001", "002", "003"], ["unreadable file"] * 2),
    }


def pax(record):
    """Return a pax header that makes the next member unreadable."""
    member = tarfile.TarInfo("x.jpg")
    member.pax_headers = dict([record.split("=")])
    return member.tobuf(tarfile.PAX_FORMAT)


def test_keys_that_two_downloads_share(tmp_path):
    """img2dataset counts keys from 0 in every download.

    Different pictures of one key stay; the same picture of one key does not.
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
                InputError, match=r"a.tar changed while it was being read; .* which reads it again$"
            ):
                build(tmp_path / "D", "--input", tmp_path / "a.tar")
        tar(tmp_path / "a.tar", sample(0) + sample(1))
    records, _ = build(tmp_path / "D", "--input", tmp_path / "a.tar")
    assert sorted(records) == ["000", "001"]


def entry(rank, ordinal, bits=0):
    return Entry(bytes([rank]) * 28, 0, ordinal, f"k{ordinal}", Place("", 0, 0), bits, b"")


def test_crowded_bands_stay_cheap(monkeypatch):
    """A record is compared with only a few better copies.

    A band of more than BUCKET records is cut into stretches.
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
    """Bytes of good images are changed at random; Pillow's decoders raise various errors."""
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
            r"bytes lost in truncated files: .* \(most of them in .*\), more than"
            r" --max-bad-fraction 0.2 allows"
        ),
    ):
        build(tmp_path / "D", "--input", f"{tmp_path}/*.tar", "--max-bad-fraction", 0.2)
