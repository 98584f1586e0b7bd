"""Test that computing commands begin again with huge pages, once, and only where it is useful."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import subprocesses

from cv3jax import __main__, cli
from cv3jax.distributed import huge_pages

# a process that restarts as a command does, on a machine where that is useful
RESTARTS = """
import os, sys
from pathlib import Path
from cv3jax.distributed import huge_pages
huge_pages.MODE, huge_pages.accelerated = Path(sys.argv[1]), lambda: False
print("before", os.getpid(), flush=True)
huge_pages.restart()
print(os.environ.get(huge_pages.WISH), os.getpid(), sys.argv[2:], sys.flags.utf8_mode, input())
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that makes this a machine of that C library and mode of Linux."""

    def make(library="glibc 2.36", mode="always [madvise] never", accelerated=False):
        (tmp_path / "enabled").write_text(mode)
        monkeypatch.setattr(huge_pages, "MODE", tmp_path / "enabled")
        monkeypatch.setattr(huge_pages, "accelerated", lambda: accelerated)
        monkeypatch.setattr(os, "confstr", lambda name: library)

    return make


@pytest.mark.parametrize(
    ("given", "useful"),
    [
        ({}, True),
        ({"library": "glibc 2.35"}, True),
        ({"library": "glibc 2.34"}, False),
        ({"library": "musl 1.2"}, False),
        ({"library": None}, False),
        ({"mode": "[always] madvise never"}, False),
        ({"mode": "always madvise [never]"}, False),
        ({"accelerated": True}, False),
    ],
    ids=str,
)
def test_where_it_is_useful(given, useful, machine):
    machine(**given)
    assert huge_pages.useful({}) == useful


def test_a_wish_of_the_environment_stays(machine):
    machine()
    assert not huge_pages.useful({huge_pages.WISH: "glibc.malloc.check=3"})


def test_a_kernel_without_huge_pages(machine, monkeypatch, tmp_path):
    machine()
    monkeypatch.setattr(huge_pages, "MODE", tmp_path / "none")
    assert not huge_pages.useful({})


@pytest.mark.parametrize("mode", ["[madvise]", "[never]"])
def test_a_process_begins_again_once_and_keeps_what_it_has(mode, tmp_path):
    (tmp_path / "enabled").write_text(mode)
    environment = subprocesses.environment()
    environment.pop(huge_pages.WISH, None)
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", RESTARTS, str(tmp_path / "enabled"), "a b", "--c"],
        env=environment,
        input="typed\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    *before, last = done.stdout.splitlines()
    again = mode == "[madvise]"
    assert before == before[:1] * (2 if again else 1)  # the same process
    wish, process, rest = last.split(" ", 2)
    assert wish == (huge_pages.VALUE if again else "None")
    assert process == before[0].split()[1]
    assert rest == "['a b', '--c'] 1 typed"


def output(code):
    """Return what a Python with the wishes prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=subprocesses.environment() | {huge_pages.WISH: huge_pages.VALUE},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_c_library_grants_the_wish():
    """A mapping that asks for huge pages has the flag "hg" (proc(5)), if Linux gives any."""
    code = (
        "import ctypes; at = ctypes.cast(ctypes.create_string_buffer(1 << 26), ctypes.c_void_p)\n"
        "print(at.value, open('/proc/self/smaps').read())"
    )
    at, maps = output(code).split(" ", 1)
    heads = re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) .*?^VmFlags:([^\n]*)", maps, re.M | re.S)
    flags = [m[3].split() for m in heads if int(m[1], 16) <= int(at) < int(m[2], 16)]
    expected = "[madvise]" in huge_pages.MODE.read_text()
    assert ("hg" in flags[0]) == expected


def test_memory_that_was_freed_is_there_again_without_a_page_fault():
    code = (
        "import ctypes, resource; size = 1 << 28; c = ctypes.CDLL(None)\n"
        "c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]\n"
        "c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]\n"
        "c.free.argtypes = [ctypes.c_void_p]\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def call(): at = c.malloc(size); c.memset(at, 1, size); c.free(at)\n"
        "call(); before = faults(); call(); print(faults() - before)\n"
    )
    pages = (1 << 28) // (1 << 21)  # huge ones; there are 512 times as many of 4 KiB
    assert int(output(code)) < pages / 4


@pytest.mark.parametrize(
    ("argv", "restarts"),
    [(["train", "--help"], True), (["status"], False), (["data", "pack"], False), ([], False)],
    ids=str,
)
def test_commands_that_compute_begin_again(argv, restarts, monkeypatch):
    called = []
    monkeypatch.setattr(sys, "argv", ["cv3jax", *argv])
    monkeypatch.setattr(huge_pages, "restart", lambda: called.append("restart"))
    monkeypatch.setattr(__main__.signals, "install", lambda: called.append("signals"))
    monkeypatch.setattr(cli, "main", lambda: called.append("main"))
    __main__.main()
    assert called == ["restart"] * restarts + ["signals", "main"]
    assert set(huge_pages.COMPUTING) <= set(cli.COMMANDS)


@pytest.mark.parametrize("device", ["nvidia0", "accel0", "dxg"])
def test_devices_of_accelerators(device, tmp_path: Path):
    assert not huge_pages.accelerated(tmp_path)
    (tmp_path / device).touch()
    assert huge_pages.accelerated(tmp_path)
