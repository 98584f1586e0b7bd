"""Test that an error of the machine ends a build in one line.

No image, tar or parquet file may count as damaged because of it, and the same command must resume.
"""

import builtins
import errno
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from build_inputs import build, jpeg, sample
from image_shards import tar
from pyarrow import parquet

from data_pipeline.builder.inputs import find_units, read_unit
from data_pipeline.images import decode
from data_pipeline.io.errors import InputError
from data_pipeline.io.exits import line_and_code
from data_pipeline.packing.pack import pack
from data_pipeline.sources.items import Item, Skip

CODES = [errno.EIO, errno.EMFILE, errno.ESTALE, errno.ENOSPC, errno.ENOMEM, errno.ETIMEDOUT]
COUNT = 3


def folder(at):
    at.mkdir()
    for i in range(COUNT):
        for name, data in sample(i):
            (at / name).write_bytes(data)
    return at


def table(name, lines):
    def made(at):
        at.mkdir()
        for i in range(COUNT):
            (at / f"{i}.jpg").write_bytes(jpeg(i))
        (at / name).write_text("\n".join([*lines(), ""]))
        return at

    return made


def csv():
    return ["file_name,caption", *(f"{i}.jpg,picture {i}" for i in range(COUNT))]


def jsonl():
    return [json.dumps({"file_name": f"{i}.jpg", "caption": f"p {i}"}) for i in range(COUNT)]


def tars(at):
    at.mkdir()
    tar(at / "a.tar", [part for i in range(COUNT) for part in sample(i)])
    return at


def rows(at):
    at.mkdir()
    columns = {
        "jpg": [jpeg(i) for i in range(COUNT)],
        "caption": [f"picture {i}" for i in range(COUNT)],
    }
    parquet.write_table(pa.table(columns), at / "a.parquet")
    return at


# source → how it is made, and the file of it that fails
SOURCES = {
    "folder's image": (folder, "001.jpg"),
    "folder's caption": (folder, "001.txt"),
    "folder's metadata": (folder, "001.json"),
    "csv's image": (table("metadata.csv", csv), "1.jpg"),
    "csv": (table("metadata.csv", csv), "metadata.csv"),
    "jsonl's image": (table("metadata.jsonl", jsonl), "1.jpg"),
    "jsonl": (table("metadata.jsonl", jsonl), "metadata.jsonl"),
    "tar": (tars, "a.tar"),
    "parquet": (rows, "a.parquet"),
}


class Failing(io.RawIOBase):
    """Open like a file and fail after `good` reads."""

    def __init__(self, file, code, good):
        self.file, self.code, self.good = file, code, good

    def readable(self):
        return True

    def seekable(self):
        return True

    def fileno(self):
        return self.file.fileno()

    def tell(self):
        return self.file.tell()

    def seek(self, *place):
        return self.file.seek(*place)

    def readinto(self, buffer):
        self.good -= 1
        if self.good < 0:
            raise OSError(self.code, os.strerror(self.code))
        return self.file.readinto(buffer)

    def close(self):
        self.file.close()
        super().close()


def fail(monkeypatch, name, code, how):
    """Make the file of that name fail with an error.

    It fails at "stat", at "open", or after a number of good reads.
    """
    opened, stat = io.open, os.stat

    def is_it(path):
        return isinstance(path, str | os.PathLike) and Path(path).name == name

    def fails(path):
        raise OSError(code, os.strerror(code), str(path))

    def failing_open(path, mode="r", *args, **options):
        if not is_it(path) or "r" not in mode:
            return opened(path, mode, *args, **options)
        if how == "open":
            fails(path)
        raw = Failing(opened(path, "rb", buffering=0), code, how)
        file = io.BufferedReader(raw, 2048)
        return file if "b" in mode else io.TextIOWrapper(file, options.get("encoding"))

    if how == "stat":
        monkeypatch.setattr(
            os, "stat", lambda path, **on: fails(path) if is_it(path) else stat(path, **on)
        )
    else:
        monkeypatch.setattr(io, "open", failing_open)
        monkeypatch.setattr(builtins, "open", failing_open)


def ended(call):
    with pytest.raises((InputError, OSError, MemoryError)) as e:
        call()
    assert line_and_code(e.value) is not None, repr(e.value)
    return line_and_code(e.value)


def cases():
    for i, source in enumerate(SOURCES):
        for j, code in enumerate(CODES):
            # every error of every source, each way of failing with some of them
            yield source, code, ("open", 0)[(i + j) % 2]
        yield source, errno.EIO, "stat"
    yield "tar", errno.EIO, 3
    yield "parquet", errno.EIO, 2


def everything(given):
    return [item for unit in find_units([str(given)], None) for item in read_unit(unit)]


@pytest.mark.parametrize(("source", "code", "how"), cases())
def test_a_source_is_not_to_blame(source, code, how, tmp_path, monkeypatch):
    make, name = SOURCES[source]
    given = make(tmp_path / "in")
    with monkeypatch.context() as patch:
        fail(patch, name, code, how)
        line, exit_code = ended(lambda: everything(given))
    assert exit_code == 1, line
    assert os.strerror(code) in line
    assert [type(item) for item in everything(given)] == [Item] * COUNT


BUILDS = [
    ("folder's image", errno.EMFILE, "open"),
    ("csv's image", errno.ETIMEDOUT, 0),
    ("tar", errno.EIO, 3),
    ("parquet", errno.ESTALE, "open"),
]


@pytest.mark.parametrize(("source", "code", "how"), BUILDS)
def test_a_build_ends_and_resumes(source, code, how, tmp_path, monkeypatch):
    make, name = SOURCES[source]
    given, out = make(tmp_path / "in"), tmp_path / "out"
    with monkeypatch.context() as patch:
        fail(patch, name, code, how)
        line, exit_code = ended(lambda: build(out, "--input", given))
    assert exit_code == 1, line
    assert os.strerror(code) in line
    assert name in line
    assert ("ulimit" in line) == (code == errno.EMFILE)
    assert not out.exists()
    records, report = build(out, "--input", given)
    assert len(records) == COUNT
    assert (report["items"], report["dropped"]) == (COUNT, {})


@pytest.mark.parametrize("source", ["folder's image", "jsonl's image", "tar"])
def test_packing_ends(source, tmp_path, monkeypatch):
    make, name = SOURCES[source]
    given = make(tmp_path / "in")
    with monkeypatch.context() as patch:
        fail(patch, name, errno.EIO, 0)
        line, exit_code = ended(lambda: pack(given, tmp_path / "out"))
    assert (exit_code, os.strerror(errno.EIO) in line) == (1, True)
    assert pack(given, tmp_path / "out")["records"] == COUNT


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOENT, errno.EISDIR])
def test_a_file_is_to_blame(code, tmp_path, monkeypatch):
    given = folder(tmp_path / "in")
    fail(monkeypatch, "001.jpg", code, "open")
    assert [type(item) for item in everything(given)] == [Item, Skip, Item]


def test_no_memory_for_pixels_ends_a_build(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    given, out = folder(tmp_path / "in"), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(decode, "to_srgb", full)
        line, exit_code = ended(lambda: build(out, "--input", given))
    assert exit_code == 1
    assert line.startswith("out of memory")
    assert len(build(out, "--input", given)[0]) == COUNT


@pytest.mark.parametrize(
    ("code", "exit_code"), [(errno.EACCES, 2), (errno.EPERM, 2), (errno.EIO, 1), (errno.ESTALE, 1)]
)
def test_a_folder_that_cannot_be_listed_is_not_passed_over(code, exit_code, tmp_path, monkeypatch):
    given = tmp_path / "in"
    folder(given)
    folder(given / "deeper")
    listed = os.scandir

    def failing(path):
        if Path(path).name == "deeper":
            raise OSError(code, os.strerror(code), str(path))
        return listed(path)

    for call in (lambda: everything(given), lambda: pack(given, tmp_path / "out")):
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", failing)
            line, found = ended(call)
        assert found == exit_code, line
        assert os.strerror(code) in line
        assert "deeper" in line
    assert len(everything(given)) == 2 * COUNT
