"""Test the cache of shards: its bounds, what it keeps, and processes that share or leave it."""

import errno
import os
import subprocess
import sys
import threading
import time

import pytest

from data_pipeline.records.shard_cache import ABOUT, PARTIAL, USERS, ShardCache

SET, END = "0123456789ab-ba9876543210", ".array_record-00000-of-00001"  # names of the cache's form


@pytest.fixture
def cache(tmp_path):
    (tmp_path / SET).mkdir()
    return ShardCache(tmp_path, 30)


def path(cache, name):
    name, dot, partial = name.partition(".")
    return cache.folder / SET / f"{name}{END}{dot}{partial}"


def got(cache, name, size=10, **given):
    return cache.get(path(cache, name), size, lambda place: place.write_bytes(bytes(size)), **given)


def names(cache):
    return sorted(x.name.replace(END, "") for x in (cache.folder / SET).iterdir())


def aged(cache, *given):
    """Make these files the least recently used ones, the first before the second."""
    for age, name in enumerate(reversed(given)):
        os.utime(path(cache, name), (time.time() - 100 - age,) * 2)


def test_what_was_opened_least_recently_makes_room(cache):
    for name in "abc":
        got(cache, name)
    aged(cache, "b", "a", "c")
    got(cache, "b")  # it is here, and this was its last use
    got(cache, "d")
    assert names(cache) == ["b", "c", "d"]
    got(cache, "e", 20)
    assert names(cache) == ["d", "e"] or names(cache) == ["b", "e"]
    assert cache.held() == 30


def test_what_is_read_is_not_removed_for_what_is_fetched_ahead(cache):
    for name in "abc":
        got(cache, name)
    cache.use("set", [path(cache, "a"), path(cache, "b")], [path(cache, "c")])
    aged(cache, "a", "c", "b")
    assert not got(cache, "d", ahead=True)
    assert names(cache) == ["a", "b", "c"]
    assert got(cache, "d")  # it is read at once: what is read later gives way first
    assert names(cache) == ["a", "b", "d"]
    cache.use("set", [path(cache, "d")], [])
    assert got(cache, "e", ahead=True)
    assert names(cache) == ["b", "d", "e"]


OTHER = """
import sys, time
from pathlib import Path
from data_pipeline.records.shard_cache import ShardCache
cache = ShardCache(Path(sys.argv[1]), 30)
place, end = cache.folder / sys.argv[3], sys.argv[4]
for name in "ab":
    cache.get(place / (name + end), 10, lambda path: path.write_bytes(bytes(10)))
cache.use("set", [place / ("a" + end), place / ("b" + end)], [])
(place / ("c" + end + ".10" + sys.argv[2])).write_bytes(b"half")
print("ready", flush=True)
time.sleep(600)
"""


def test_what_another_process_reads_goes_last(cache, capsys):
    command = [sys.executable, "-c", OTHER, str(cache.folder), PARTIAL, SET, END]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "ready\n"
            assert cache.held() == 30  # with the room that its unfinished file takes
            aged(cache, "a", "b", f"c.10{PARTIAL}")
            got(cache, "d")  # in place of that, which nobody fetches
            got(cache, "e")
            assert names(cache) == ["a", "b", "e"]
            assert not got(cache, "f", 20, ahead=True)
            assert capsys.readouterr().err == ""
            got(cache, "f", 20)
            assert names(cache) == ["b", "f"]
            assert "data.cache_gb = 3e-08 is too little" in capsys.readouterr().err
        finally:
            other.kill()
    got(cache, "g", 20, ahead=True)
    assert names(cache) == ["g"]  # its marks went with it
    assert len(list((cache.folder / USERS).iterdir())) == 0


def test_a_file_that_is_larger_than_the_cache_is_an_error(cache):
    with pytest.raises(OSError, match=r"a.*\.31.* is larger than the cache") as caught:
        got(cache, "a", 31)
    assert (caught.value.errno, names(cache)) == (errno.ENOSPC, [])


def test_two_threads_fetch_a_file_once(cache):
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def download(place):
        calls.append(place)
        begun.set()
        go_on.wait(20)
        place.write_bytes(bytes(10))

    def get():
        cache.get(path(cache, "a"), 10, download)

    threads = [threading.Thread(target=get) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait(20)
    assert names(cache) == [f"a.10{PARTIAL}"]
    assert not got(cache, "a", ahead=True)
    go_on.set()
    for thread in threads:
        thread.join()
    assert (names(cache), len(calls)) == (["a"], 1)


def test_a_file_that_comes_short_is_fetched_again_and_never_appears(cache):
    calls = []

    def short(place):
        calls.append(place)
        place.write_bytes(bytes(9))

    with pytest.raises(OSError, match="sent 9 of 10 bytes"):
        cache.get(path(cache, "a"), 10, short)
    assert (names(cache), len(calls)) == ([], 3)
    path(cache, "a").write_bytes(bytes(9))  # of another version
    got(cache, "a")
    assert path(cache, "a").stat().st_size == 10


def test_readers_are_told_of_what_is_removed(cache):
    class Reader:
        def __init__(self):
            self.gone = []

        def removed(self, path):
            self.gone.append(path.name)

    reader = Reader()
    cache.readers.add(reader)
    for name in "abcd":
        got(cache, name)
        aged(cache, *names(cache))
    assert len(reader.gone) == 1
    assert reader.gone[0] not in [path.name for path in (cache.folder / SET).iterdir()]


def test_files_of_others_are_neither_counted_nor_removed(cache):
    foreign = [f"photos/a{END}", f"{SET}/notes", f"{SET}/X{PARTIAL}", f"{SET}/deep{END}/notes"]
    foreign += [f"{SET[:-1]}g/a{END}", f"{USERS}/notes", f"{USERS}/deep/notes"]
    for name in foreign:
        place = cache.folder / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(bytes(100))
        os.utime(place, (0, 0))
    assert cache.held() == 0
    for name in "abcd":
        got(cache, name)
    cache.use("set", [path(cache, "d")], [])
    got(cache, "e", 20)
    assert cache.held() == 30
    assert all((cache.folder / name).read_bytes() == bytes(100) for name in foreign)


def test_a_file_beside_the_shards_that_comes_short_is_fetched_again(cache):
    place, sent = cache.folder / ABOUT / "sizes.npy", [9, 9, 10]
    place.parent.mkdir()

    def short(to):
        to.write_bytes(bytes(sent.pop(0)))

    cache.get_about(place, 10, short)
    assert place.stat().st_size == 10
    cache.get_about(place, 10, short)  # it is here
    sent[:] = [9, 9, 9]
    with pytest.raises(OSError, match="sent 9 of 11 bytes"):
        cache.get_about(place, 11, short)
    assert [x.name for x in place.parent.iterdir()] == ["sizes.npy"]
