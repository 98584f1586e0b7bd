"""Test how a folder of pictures becomes records: captions, repeats, rewriting and refusals."""

import collections
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from loaders import loader_of
from picture_folders import picture, put
from PIL import Image

from cv3jax.lora.picture_settings import PictureSettings
from cv3jax.lora.pictures import MADE_OF, Prior, Seen, records_of, shares
from data_pipeline.io.errors import InputError
from data_pipeline.records.records import open_records

SEEN = Seen(64)


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "in" / "a.png", 1, "a red kite\nwith a second line")
    put(tmp_path / "in" / "b.jpg", 2, "  a blue kite \n")
    put(tmp_path / "in" / "10_my_old_dog" / "c.webp", 3)
    put(tmp_path / "in" / "grey cat" / "d.png", 4)
    return tmp_path / "in"


def made(folder, workdir, prior=None, **settings):
    return open_records(records_of(folder, workdir, PictureSettings(**settings), SEEN, prior))


def captions(records):
    return {record["key"]: record["caption"] for record in records}


def epoch(records, size):
    """Return how often one epoch has each caption."""
    batch = next(
        loader_of(
            records.name,
            batch_size=size,
            image_size=64,
            seed=0,
            num_threads=0,
            num_epochs=1,
            tokenize=lambda texts: np.array([[hash(text) % 2**31] for text in texts]),
        )
    )
    known = {hash(r["caption"]) % 2**31: r["caption"] for r in records}
    return collections.Counter(known[int(token)] for token in batch["tokens"][:, 0])


def test_captions_are_first_lines_or_the_names_of_folders(folder, tmp_path):
    assert captions(made(folder, tmp_path / "w")) == {
        "10_my_old_dog/c.webp": "my old dog",
        "a.png": "a red kite",
        "b.jpg": "a blue kite",
        "grey cat/d.png": "grey cat",
    }


def test_pictures_keep_their_bytes(folder, tmp_path):
    for record in made(folder, tmp_path / "w"):
        assert record["image"] == (folder / record["key"]).read_bytes()


def test_an_epoch_has_each_picture_as_often_as_its_folder_says(folder, tmp_path):
    records = made(folder, tmp_path / "w", repeats=2)
    found = epoch(records, 2 + 2 + 10 + 2)
    assert found == {"a red kite": 2, "a blue kite": 2, "my old dog": 10, "grey cat": 2}


def test_records_in_several_shards_keep_their_repeats(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("cv3jax.lora.pictures._SHARD", 2)
    records = made(folder, tmp_path / "w")
    assert len(records.lengths) == 2
    assert epoch(records, 13) == {
        "a red kite": 1,
        "a blue kite": 1,
        "my old dog": 10,
        "grey cat": 1,
    }


def test_a_trigger_comes_first_and_once(folder, tmp_path):
    (folder / "b.txt").write_text("zwx, a blue kite")
    found = captions(made(folder, tmp_path / "w", trigger="zwx,"))
    assert found["a.png"] == "zwx, a red kite"
    assert found["b.jpg"] == "zwx, a blue kite"
    assert found["grey cat/d.png"] == "zwx, grey cat"


def test_a_number_with_a_zero_before_it_is_an_order_of_folders(folder, tmp_path):
    (folder / "grey cat").rename(folder / "007_grey cat")
    records = made(folder, tmp_path / "w", repeats=3)
    assert epoch(records, 19)["grey cat"] == 3


def test_captions_of_one_source_alone(folder, tmp_path):
    with pytest.raises(InputError, match=r"2 of 4 pictures have no .txt .*c\.webp, .*d\.png;"):
        made(folder, tmp_path / "w", caption_from="txt")
    shutil.rmtree(folder / "grey cat")
    (folder / "10_my_old_dog" / "c.webp").rename(folder / "c.webp")
    home = folder.rename(tmp_path / "3_kites_of_mine")
    records = made(home, tmp_path / "w", caption_from="folder")
    assert epoch(records, 9) == {"kites of mine": 9}


def test_the_name_of_the_folder_that_is_given_counts_where_it_says_how_often(folder, tmp_path):
    home = (folder / "10_my_old_dog").rename(tmp_path / "10_red_teapot")
    assert epoch(made(home, tmp_path / "w"), 10) == {"red teapot": 10}
    put(home / "b.png", 8, "a pot")  # then it is a folder of captions
    (home / "c.webp").unlink()
    assert epoch(made(home, tmp_path / "w"), 1) == {"a pot": 1}
    (home / "b.txt").unlink()
    for name in ("2024_holiday", "10_", "teapots"):
        home = home.rename(tmp_path / name)
        with pytest.raises(InputError, match=r"b\.png has no caption: there is no b\.txt beside"):
            made(home, tmp_path / "w")


def test_of_many_pictures_without_a_caption_the_first_are_named(tmp_path):
    for i in range(5):
        put(tmp_path / "in" / f"{i}.png", i)
    with pytest.raises(InputError) as e:
        made(tmp_path / "in", tmp_path / "w")
    assert "5 of 5 pictures have no .txt with a caption: " in str(e.value)
    assert "2.png, …; write one beside them" in str(e.value)
    assert "3.png" not in str(e.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "a.txt").unlink(), r"a\.png has no caption: there is no a\.txt"),
        (lambda f: (f / "a.txt").write_text(" \n\n"), r"a\.txt is empty"),
        (lambda f: (f / "a.txt").write_bytes(b"caf\xe9"), r"a\.txt: it is not UTF-8 .*iconv"),
        (lambda f: (f / "a.txt").write_text("x" * 9000), r"9,000 characters; give at most 8,192"),
        (lambda f: (f / "grey cat").rename(f / "5_"), r"d\.png has no caption: the name of its"),
        (lambda f: (f / "grey cat").rename(f / "2024_cat"), r"occur 2024 times .* 1\.\.1000"),
        (lambda f: (f / "grey cat").rename(f / "0_cat"), "occur 0 times in an epoch"),
        (lambda f: (f / "a.png").write_bytes(b"no picture"), r"a\.png cannot be read: not a rea"),
        (lambda f: os.truncate(f / "b.jpg", 700), r"b\.jpg cannot be read: damaged image data"),
        (lambda f: (f / "e.svg").write_text("<svg/>"), r"e\.svg has no caption"),
        (lambda f: (f / "grey cat/e.svg").write_text("<svg/>"), r"e\.svg cannot be read: unsuppo"),
        (
            lambda f: Image.new("RGB", (90, 10)).save(f / "grey cat" / "e.png"),
            r"e\.png is 90×10, longer than 8:1; crop it",
        ),
        (
            lambda f: (f / "grey cat" / "e.png").symlink_to("/etc/passwd"),
            r"e\.png cannot be read: file outside the source",
        ),
    ],
)
def test_what_cannot_be_used_is_named_and_nothing_is_written(change, said, folder, tmp_path):
    change(folder)
    with pytest.raises(InputError, match=said) as caught:
        made(folder, tmp_path / "w")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w" / "pictures").exists()


@pytest.mark.parametrize(
    ("name", "said"), [("none", "does not exist"), ("file", "is a file"), ("empty", "no pictures")]
)
def test_a_folder_without_pictures(name, said, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"--pictures .*{name} .*{said}"):
        made(tmp_path / name, tmp_path / "w")


def test_records_are_written_once_and_again_when_something_changed(folder, tmp_path, capsys):
    made(folder, tmp_path / "w")
    records = tmp_path / "w" / "pictures"
    before = (records / MADE_OF).stat().st_ino
    capsys.readouterr()
    made(folder, tmp_path / "w")
    assert (records / MADE_OF).stat().st_ino == before
    assert capsys.readouterr().err == ""

    put(folder / "grey cat" / "e.png", 5)
    assert len(made(folder, tmp_path / "w")) == 5
    said = capsys.readouterr().err
    assert "is written again: the folder had 4 pictures, and now has 5" in said
    (folder / "a.txt").write_text("a green kite")
    assert captions(made(folder, tmp_path / "w"))["a.png"] == "a green kite"
    said = capsys.readouterr().err
    assert "written again: the folder's pictures, captions or repeats have changed" in said
    assert said.count("written again") == 1
    assert captions(made(folder, tmp_path / "w", trigger="zwx"))["a.png"] == "zwx a green kite"


KILLED = """
import os, signal, sys
from pathlib import Path
from cv3jax.lora import pictures
from cv3jax.lora.picture_settings import PictureSettings
from data_pipeline.records.records import RecordWriter
write = RecordWriter.write
def die(self, record):
    write(self, record)
    if self.count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
RecordWriter.write = die
pictures.records_of(*map(Path, sys.argv[1:]), PictureSettings(), pictures.Seen(64))
"""


def test_killed_in_the_middle_the_same_records_come_out(folder, tmp_path):
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "w")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "w" / "pictures.partial").exists()
    assert not (tmp_path / "w" / "pictures").exists()
    for name in ("w", "fresh"):
        made(folder, tmp_path / name)
    assert not (tmp_path / "w" / "pictures.partial").exists()
    for path in sorted((tmp_path / "fresh" / "pictures").iterdir()):
        assert path.read_bytes() == (tmp_path / "w" / "pictures" / path.name).read_bytes()


def test_damaged_records_are_written_again(folder, tmp_path, capsys):
    records = made(folder, tmp_path / "w")
    shard = next((tmp_path / "w" / "pictures").glob("*.array_record-*"))
    shard.unlink()
    assert captions(made(folder, tmp_path / "w")) == captions(records)
    assert f"written again: shard {shard} is missing" in capsys.readouterr().err


def test_the_same_folder_gives_the_same_bytes(folder, tmp_path):
    for name in ("one", "two"):
        made(folder, tmp_path / name)
    for path in sorted((tmp_path / "one" / "pictures").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / "pictures" / path.name).read_bytes()


def test_class_pictures_have_their_share_of_an_epoch(folder, tmp_path):
    for i in range(3):
        put(tmp_path / "drawn" / f"0000{i}_a_dog_{i}.png", 100 + i)
    prior = Prior(tmp_path / "drawn", "a dog", 9)
    # 13 occurrences of pictures: 39 and 39 have the ratio 1
    found = epoch(made(folder, tmp_path / "w", prior), 78)
    assert found == {
        "a red kite": 3,
        "a blue kite": 3,
        "my old dog": 30,
        "grey cat": 3,
        "a dog": 39,
    }
    put(tmp_path / "drawn" / "00003_a_dog_3.png", 103)
    half = epoch(made(folder, tmp_path / "w", prior, prior_weight=0.5), 104 + 52)
    assert half["a dog"] == 52
    assert sum(half.values()) == 3 * 52


@pytest.mark.parametrize(("weight", "others"), [(1.0, 100), (0.5, 7), (3.0, 1), (0.01, 3), (1, 9)])
def test_shares_are_nearest_to_the_weight(weight, others):
    factor, each = shares([1, 5, 10, 1], others, weight)
    assert each * others / (17 * factor) == pytest.approx(weight, rel=1e-3)


def test_without_class_pictures_repeats_are_those_given():
    assert shares([2, 20, 4], 0, 1.0) == (1, 0)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("repeats", 0, r"1\.\.1000"),
        ("caption_from", "names", "one of auto, txt, folder"),
        ("trigger", " zwx", "without blanks around it"),
        ("trigger", "z\nw", "one line"),
        ("class_prompt", "  ", "words, or empty"),
        ("class_pictures", 0, r"1\.\.100000"),
        ("prior_weight", 0.0, r"0\.01\.\.100"),
        ("cache", 1, "True or False"),
    ],
)
def test_settings_are_checked_by_name(field, value, said):
    with pytest.raises(InputError, match=rf"config\.pictures\.{field} = .*{said}"):
        PictureSettings(**{field: value})


def test_hidden_files_and_texts_alone_are_no_pictures(folder, tmp_path, capsys):
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "LICENSE.txt").write_text("free")
    assert len(made(folder, tmp_path / "w")) == 4
    assert "1 .txt file without a picture: LICENSE.txt" in capsys.readouterr().err
    assert picture(1).shape == (64, 64, 3)
