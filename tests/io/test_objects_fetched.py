"""Files and folders of a bucket that a command reads whole: `fetched`."""

import os
import shutil

import pytest

from data_pipeline.io.errors import InputError
from data_pipeline.io.objects import fetched as module
from data_pipeline.io.objects.fetched import fetched
from data_pipeline.io.objects.mirror import mirrored
from data_pipeline.io.objects.places import place_of
from data_pipeline.io.objects.store import Store


def put(address, folder, **files):
    """Upload files as another program does. Names have _ for a slash."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / "x").write_text(text)
        Store(address).upload(folder / "x", name.replace("_", "/"))


@pytest.fixture
def downloads(monkeypatch):
    """Return the names of what is downloaded."""
    names, download = [], Store.download

    def watched(self, name, path):
        names.append(name)
        download(self, name, path)

    monkeypatch.setattr(Store, "download", watched)
    return names


def test_a_file_comes_with_what_lies_beside_it_and_once(bucket, tmp_path, downloads):
    put(bucket, tmp_path / "up", a="one", ab="other", config="two")
    assert fetched(tmp_path, "--lora") == tmp_path
    place = fetched(f"{bucket}/a", "--lora", beside=("config", "none"))
    assert (place.name, place.read_text()) == ("a", "one")
    assert sorted(path.name for path in place.parent.iterdir()) == ["a", "config"]
    assert fetched(f"{bucket}/a", "--lora", beside=("config", "none")) == place
    assert sorted(downloads) == ["a", "config"]
    os.close(module.reading._held.pop(place.parent))  # its reader has ended
    fetched(f"{bucket}/ab", "--lora")
    assert place.exists()  # of another file
    put(bucket, tmp_path / "up", a="1")
    newer = fetched(f"{bucket}/a", "--lora")
    assert newer.read_text() == "1"
    assert not place.exists()


def test_a_folder_comes_whole_or_what_is_wanted_of_it(bucket, tmp_path, monkeypatch):
    put(bucket, tmp_path / "up", t5_a="one", t5_b_c="two", t5x="three")
    place = fetched(f"{bucket}/t5/", "--t5")
    found = {str(x.relative_to(place)): x.read_text() for x in place.rglob("*") if x.is_file()}
    assert (place.name, found) == ("t5", {"a": "one", "b/c": "two"})
    some = fetched(f"{bucket}/t5", "--lora", inside=("b/c", "none"))
    assert [str(x.relative_to(some)) for x in some.rglob("*") if x.is_file()] == ["b/c"]
    with pytest.raises(InputError, match=rf"--t5 {bucket}/t5: there .* no folder with x or y;"):
        fetched(f"{bucket}/t5", "--t5", inside=("x", "y"))
    monkeypatch.setattr(module, "MOST", 1)
    with pytest.raises(InputError, match=rf"--t5 {bucket}/t5 has more than 1 objects"):
        fetched(f"{bucket}/t5", "--t5")


def test_what_is_published_is_found_below_its_address(bucket, tmp_path):
    with mirrored(f"{bucket}/run") as work:
        (work / "lora").mkdir()
        (work / "lora" / "a").write_text("one")
        (work / "lora" / "config").write_text("two")
        (work / "log").write_text("three")
    shutil.rmtree(place_of(f"{bucket}/run"))
    place = fetched(f"{bucket}/run/lora/a", "--lora", beside=("config",))
    assert place.read_text() + (place.parent / "config").read_text() == "onetwo"
    whole = fetched(f"{bucket}/run", "--lora")
    assert (whole / "log").read_text() == "three"
    some = fetched(f"{bucket}/run", "--lora", inside=("lora/a", "b"))
    assert [x.name for x in some.rglob("*") if x.is_file()] == ["a"]


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("{bucket}/none", "--vae {bucket}/none: there is no such object, and no folder; check"),
        ("{whole}", "--vae {whole}: this is a whole bucket; give the address of a file or folder"),
    ],
)
def test_a_wrong_address_is_one_line(bucket, server, address, line):
    names = {"bucket": bucket, "whole": server}
    with pytest.raises(InputError) as caught:
        fetched(address.format(**names), "--vae")
    assert str(caught.value).startswith(line.format(**names))


def test_what_comes_cut_or_changes_meanwhile_is_refused(bucket, tmp_path, monkeypatch):
    put(bucket, tmp_path / "up", a="whole")
    download = Store.download

    def cut(self, name, path):
        path.write_text("who")

    def replaced(self, name, path):
        download(self, name, path)
        put(bucket, tmp_path / "up", a="other")

    for broken, line in ((cut, "3 of 5 bytes came"), (replaced, "was changed while it was fetch")):
        with monkeypatch.context() as patch:
            patch.setattr(Store, "download", broken)
            with pytest.raises(InputError, match=line):
                fetched(f"{bucket}/a", "--vae")
    assert fetched(f"{bucket}/a", "--vae").read_text() == "other"


def test_names_that_leave_the_folder_are_refused(bucket, tmp_path, monkeypatch):
    listed = {"f/../../x": (1, "s")}
    monkeypatch.setattr(Store, "some", lambda self, start, most: listed)
    with pytest.raises(InputError, match="the name of this object is no path of files"):
        fetched(f"{bucket}/f", "--vae")
