"""Test that a file appears whole or not at all, and that special files are not replaced."""

import errno
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from cv3jax.checkpoints.cascades import CASCADE, write_cascade
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.reports.pictures import save_png
from cv3jax.sampling import jobs
from data_pipeline.io import storage
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory, check_file, replacing, write_json
from data_pipeline.io.staging import check_new, replace_directory
from data_pipeline.records.array_records import check_replaceable
from data_pipeline.records.sizes import NAME, write_sizes


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("name", [None, ".new"])
def test_a_file_has_its_name_when_it_is_whole(tmp_path, name, durable):
    path, place = tmp_path / "a.txt", tmp_path / (name or "a.txt.tmp")
    path.write_text("old")
    with replacing(path, name and place, durable=durable) as temporary:
        assert temporary == place
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def stop_half_way():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_without_a_name_gets_that_of_the_place(tmp_path):
    with pytest.raises(OSError, match=r"a\.txt\.tmp") as caught, replacing(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def _png(path: Path) -> None:
    save_png(path, np.zeros((2, 2, 3), np.uint8))


def _index(path: Path) -> None:
    jobs.write(path.parent, path, iter(["a line\n"]))


# whoever writes beside a place and renames, with the name that the file has to have
WRITERS = {
    "write_json": ("a.json", lambda path: write_json(path, {"a": 1})),
    "save_png": ("a.png", _png),
    "storage.write": ("a.bin", lambda path: storage.write(str(path), b"bytes")),
    "sizes": (NAME, lambda path: write_sizes(path.parent, [(3, 4)])),
    "cascade": (CASCADE, lambda path: write_cascade(path.parent, CascadeDescription())),
    "index": ("index.jsonl", _index),
}


@pytest.mark.parametrize(("name", "write"), WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("there", [True, False], ids=["link", "dangling link"])
def test_a_link_stays_and_what_it_names_is_written(name, write, there, tmp_path):
    (tmp_path / "place").mkdir()
    target = tmp_path / "elsewhere" / "target"
    if there:
        target.parent.mkdir()
        target.write_text("old")
    link = tmp_path / "place" / name
    link.symlink_to(Path("..", "elsewhere", "target"))
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() not in (b"old", b"")
    assert os.listdir(tmp_path / "place") == [name]
    assert os.listdir(target.parent) == ["target"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "directory"])
@pytest.mark.parametrize("place", [None, ".new"])
def test_what_has_the_name_beside_it_and_is_no_file_stays(kind, place, tmp_path):
    beside, mine = tmp_path / (place or "a.txt.tmp"), tmp_path / "mine"
    if "link" in kind:
        beside.symlink_to("mine")
    elif kind == "directory":
        beside.mkdir()
    if kind == "link":
        mine.write_text("kept")
    if kind == "pipe":  # with a reader, so that who writes there after all does not wait
        os.mkfifo(beside)
    reader = os.open(beside, os.O_RDONLY | os.O_NONBLOCK) if kind == "pipe" else None
    before = beside.lstat()
    with replacing(tmp_path / "a.txt", place and beside) as temporary:
        temporary.write_text("new")
    assert os.path.lexists(beside)
    assert os.path.samestat(before, beside.lstat())
    assert (tmp_path / "a.txt").read_text() == "new"
    assert not (tmp_path / "a.txt").is_symlink()
    assert mine.exists() == (kind == "link")
    assert kind != "link" or mine.read_text() == "kept"
    if reader is not None:
        os.close(reader)


@pytest.mark.parametrize("there", ["a dataset", "an empty directory", "nothing", "nor its parent"])
def test_a_directory_that_a_link_names_is_replaced_and_the_link_stays(there, tmp_path):
    target, whole = tmp_path / "disk" / "target", tmp_path / "out.partial"
    whole.mkdir()
    (whole / "new").write_text("new")
    if there != "nor its parent":
        target.parent.mkdir()
    if there not in ("nothing", "nor its parent"):
        target.mkdir()
    if there == "a dataset":
        (target / "old").write_text("old")
    (tmp_path / "out").symlink_to(target)
    replace_directory(whole, tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["disk", "out"]
    assert os.listdir(target.parent) == ["target"]
    assert os.listdir(target) == ["new"]


@pytest.mark.parametrize(("name", "write"), WRITERS.values(), ids=WRITERS)
def test_a_pipe_is_written_in_place(name, write, tmp_path):
    pipe, got = tmp_path / name, []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(20)
    assert got[0]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == [name]


def test_a_device_is_written_in_place():
    """The device is a terminal of the test's own: a replaced one would damage the machine."""
    ours, theirs = os.openpty()
    try:
        device = Path(os.ttyname(theirs))
        check_file(device, "--json")
        write_json(device, {"a": 1})
        assert json.loads(os.read(ours, 1000)) == {"a": 1}
        assert stat.S_ISCHR(device.stat().st_mode)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_an_open_file_is_written_where_it_is(path, kind, tmp_path):
    """What was printed to stdout before stays, and what is printed later follows."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    code = (
        "from pathlib import Path; from data_pipeline.io.files import check_file, write_json;"
        f"print('before'); path = Path({path!r}); check_file(path, '--json');"
        "write_json(path, {'a': 'é'}); print('after')"
    )
    root = str(Path(__file__).parents[2])
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=out if kind == "file" else subprocess.PIPE,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": root},
            check=True,
        )
    text = (tmp_path / "out").read_text() if kind == "file" else done.stdout.decode()
    before, *figures, after = text.splitlines()
    assert (before, json.loads("".join(figures)), after) == ("before", {"a": "é"}, "after")
    assert sorted(os.listdir(tmp_path)) == ["link", "out"]


def test_what_can_be_no_file_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    (tmp_path / "round").symlink_to("round")
    read_only = os.open("/dev/null", os.O_RDONLY)
    for path in (tmp_path / "socket", tmp_path / "round", Path(f"/dev/fd/{read_only}")):
        with pytest.raises(InputError, match=str(path)):
            check_file(path, "--json")
    os.close(read_only)
    with pytest.raises(InputError, match=f"/dev/fd/{read_only}"):
        check_file(Path(f"/dev/fd/{read_only}"), "--json")


# /proc takes nothing from anybody, and access(2) tells the superuser otherwise
@pytest.mark.parametrize("place", ["/proc/none", "/proc/none/below", "/proc/self/none"])
@pytest.mark.parametrize(
    "check", [check_directory, check_file, check_new], ids=["directory", "file", "new"]
)
def test_a_read_only_place_is_found_before_the_work(place, check):
    with pytest.raises(InputError, match=rf"--flag {place}: /proc.* cannot be written \("):
        check(Path(place), "--flag")


def test_a_protected_file_and_a_mounted_disk_are_found_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "figures.json").write_text("kept")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the superuser may always
    with pytest.raises(InputError, match="cannot be written"):
        check_file(tmp_path / "figures.json", "--json")
    for check in (check_new, lambda path: check_replaceable(path, overwrite=True)):
        with monkeypatch.context() as patch:
            patch.setattr(os.path, "ismount", lambda path: path == tmp_path / "disk")
            (tmp_path / "disk").mkdir(exist_ok=True)
            with pytest.raises(InputError, match="a disk is mounted there"):
                check(tmp_path / "disk")
    assert sorted(os.listdir(tmp_path)) == ["disk", "figures.json"]


def test_names_that_are_no_text_are_written_as_json(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "a.json", {"out": name, "caption": "Bär"})
    text = (tmp_path / "a.json").read_text("utf-8")
    assert "Bär" in text
    assert json.loads(text) == {"out": name, "caption": "Bär"}
