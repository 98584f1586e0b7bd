"""Test that a machine with too little of one thing ends a command in one line.

tests/attack/resources.py tries every long command; here are the rows of each kind of mend.
"""

import errno
import importlib
import logging
import resource
import subprocess
from pathlib import Path

import jax
import pytest
import subprocesses
from tiny_runs import scenes
from toy_runs import toy

from cv3jax import cli
from cv3jax.checkpoints import runs
from cv3jax.distributed import backend
from data_pipeline.io import address_space, files
from data_pipeline.io.errors import FailedRunError, InputError
from data_pipeline.io.exits import line_and_code

GIB = 2**30


def caused(e: Exception, cause: Exception) -> Exception:
    e.__cause__ = cause
    return e


# what a library raises, how the line begins
USED_UP = [
    (MemoryError(), "out of memory; free some memory on this machine"),
    (MemoryError("8 GiB"), "out of memory (8 GiB); free"),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), "out of"),
    (ImportError("libx.so: failed to map segment from shared object"), "out of memory (libx.so"),
    (ValueError("Cannot allocate memory [os_error_code='12']"), "out of memory (Cannot"),
    (RuntimeError("std::bad_alloc"), "out of memory (std::bad_alloc); free"),
    (RuntimeError("can't start new thread"), "no further thread can be started (can't"),
    (caused(ImportError("an extension"), MemoryError()), "out of memory; free"),
    (caused(InputError("x is damaged"), MemoryError("9")), "out of memory (9); free"),
]


@pytest.mark.parametrize(("error", "line"), USED_UP, ids=[repr(e)[:50] for e, _ in USED_UP])
def test_what_is_used_up_is_one_line(error, line):
    said, code = line_and_code(error)
    assert code == 1
    assert said.startswith(line)
    assert "\n" not in said
    assert said.endswith("run the same command again")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("a bug"), ValueError("no such shape"), ImportError("no name x"), OSError(2, "x")],
)
def test_other_errors_are_not_of_memory(error):
    assert address_space.used_up(error) is None


def test_a_limit_of_the_address_space_is_named(monkeypatch):
    monkeypatch.setattr(address_space.resource, "getrlimit", lambda _: (3 * GIB, 3 * GIB))
    for error in (MemoryError(), RuntimeError("can't start new thread")):
        assert "limited to 3.0 GiB (ulimit -v); raise the limit" in line_and_code(error)[0]


@pytest.mark.parametrize(
    ("limit", "cores", "fits"),
    [
        (resource.RLIM_INFINITY, 500, True),
        (5 * GIB, 4, True),
        (5 * GIB - 1, 4, False),
        (5 * GIB, 8, False),
    ],
)
def test_a_limit_is_compared_with_what_libraries_reserve(limit, cores, fits, monkeypatch):
    monkeypatch.setattr(address_space.resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(address_space.os, "cpu_count", lambda: cores)
    if fits:
        return address_space.check_room(address_space.MODELS, "JAX")
    with pytest.raises(
        FailedRunError, match=r"limited to 5\.0 GiB \(ulimit -v\), and JAX reserves"
    ):
        address_space.check_room(address_space.MODELS, "JAX")


COMMANDS = [
    ["train", "--config=scenes_vae:tiny", "--workdir", "{at}/w", "--config.data.path={data}"],
    ["sample", "--checkpoint", "scenes", "--prompt", "a star", "--out", "{at}/w"],
    ["data", "scenes", "--num", "8", "--out", "{at}/w"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("gib", [0.15, 1.0])
def test_a_command_says_that_its_address_space_is_too_small(words, gib, tmp_path):
    words = [word.format(at=tmp_path, data=scenes()) for word in words]
    shell = ["sh", "-c", f'ulimit -v {int(gib * 2**20)}; exec "$@"', "sh"]
    done = subprocess.run(
        [*shell, *subprocesses.command("cv3jax", *words)],
        env=subprocesses.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (1, 1), done.stderr[-1000:]
    assert lines[0].startswith("cv3jax: ")
    assert f"the address space is limited to {gib:.1f} GiB (ulimit -v)" in lines[0]
    assert list(tmp_path.iterdir()) == []


def deep(folder: Path, length: int) -> Path:
    """Return a path of so many characters below a folder."""
    while (left := length - len(str(folder))) > 1:
        folder = folder / ("d" * min(200, left - 1))
    return folder


LONG = [
    pytest.param(lambda at: deep(at, 4000), "the path has 4,000 bytes, and may have", id="4,000"),
    pytest.param(lambda at: deep(at, 9000), "the path has 9,000 bytes, and may have", id="9,000"),
    pytest.param(lambda at: at / ("n" * 300), "the name has 300 bytes, and may have", id="a name"),
]


@pytest.mark.parametrize(("make", "line"), LONG)
@pytest.mark.parametrize("words", [COMMANDS[0], COMMANDS[2]], ids=lambda words: words[0])
def test_a_path_that_is_too_long_is_one_line_that_says_so(make, line, words, tmp_path, capsys):
    place = make(tmp_path)
    words = [word.format(at="{at}", data=scenes()).replace("{at}/w", str(place)) for word in words]
    with pytest.raises(SystemExit) as ended:
        cli.run_command(lambda argv: importlib.import_module(module(words)).main(argv), words[1:])
    said = capsys.readouterr().err
    last = said.splitlines()[-1]  # after lines of progress
    assert (ended.value.code, subprocesses.foreign(said)) == (2, [])
    assert line in last
    assert last.endswith("; give a shorter one")
    assert list(tmp_path.iterdir()) == []


def module(words: list[str]) -> str:
    return cli.COMMANDS[words[0]][0]


def test_all_files_fit_below_the_longest_path(tmp_path):
    workdir = deep(tmp_path, files.PATH - files.BELOW)
    toy(workdir)
    assert runs.steps(workdir / "checkpoints")[-1] == 8
    with pytest.raises(InputError, match="the path has"):
        files.check_directory(workdir.with_name(f"{workdir.name}d"), "--workdir")


def test_the_end_of_a_long_line_is_kept():
    line, code = line_and_code(OSError(errno.ENAMETOOLONG, "File name too long", "d" * 9000))
    assert (code, len(line) <= 4001) == (2, True)
    assert line.endswith("d: File name too long; give a shorter path")
    assert line.startswith("ddd")
    assert "…" in line


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError("Error writing x: No space left on device [os_error_code='28']"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (ValueError("a bug"), True),
        (None, True),
    ],
    ids=repr,
)
def test_tasks_that_a_full_disk_ended_are_not_logged_one_by_one(error, shown, caplog):
    backend.quiet_libraries()
    raised = (type(error), error, None) if error else None
    logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=raised)
    assert bool(caplog.records) == shown
