"""Test that `cv3jax data encode` writes the same bytes after stops, kills and shared work.

A different encoding in the same place is refused.
"""

import functools
import os
import signal
import subprocess
import sys

import pytest
import subprocesses
import tiny_runs
from encode_runs import BATCH, COUNT, cache_of, config, contents, data, records

from cv3jax.precompute import run as precomputing
from cv3jax.precompute import shard
from data_pipeline.io.errors import InputError, StoppedError
from data_pipeline.io.shares import Share
from data_pipeline.records.feature_cache import IDENTITY, read_identity

run = functools.partial(precomputing.run, latents="float32", text="float32", batch=BATCH)

KILL = """
import os, signal, sys
from cv3jax import cli
from cv3jax.commands import encode
from cv3jax.precompute import shard
write, count = shard.write, 0

def last(*args, **options):
    global count
    count += 1
    if count == {batches}:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*args, **options)

shard.write = last
cli.run_command(encode.main, sys.argv[1:])
"""


def test_killed_in_a_shard_and_run_again_it_is_the_run_that_was_never_stopped(tmp_path):
    out = tmp_path / "out"
    flags = [
        "--config=scenes_relay:tiny",
        "--input",
        str(data()),
        "--checkpoint",
        str(tiny_runs.trained("base").workdir),
        "--out",
        str(out),
        "--batch",
        str(BATCH),
        "--latents",
        "float32",
        "--text",
        "float32",
    ]
    killed = subprocess.run(
        [sys.executable, "-c", KILL.format(batches=6), *flags],
        env=subprocesses.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    partial = tmp_path / "out.partial"
    assert not out.exists()
    first = "encoded-train.array_record-00000-of-00003"
    assert {path.name for path in partial.iterdir()} == {IDENTITY, first, ".part_0_of_1"}
    assert len(list((partial / ".part_0_of_1").glob("encoded-*"))) == 1  # the second, half written
    stamp = (partial / first).stat().st_mtime_ns
    made = run(config("relay"), out)["made"]
    assert made == COUNT - 7
    assert (out / first).stat().st_mtime_ns == stamp
    assert contents(out) == contents(cache_of("float32", "float32"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_processes_make_the_whole_between_them(tmp_path):
    out, whole = tmp_path / "out", contents(cache_of("float32", "float32"))
    first = run(config("relay"), out, share=Share(0, 2))
    assert (first["made"], first["out"]) == (7 + 6, None)
    assert not out.exists()
    second = run(config("relay"), out, share=Share(1, 2))
    assert (second["made"], second["out"]) == (7, str(out))
    assert contents(out) == whole
    # a late one, which finds its work done
    again = run(config("relay"), out, share=Share(0, 2), overwrite=True)
    assert (again["made"], again["out"]) == (0, str(out))
    assert contents(out) == whole


def test_a_signal_ends_it_and_the_same_command_resumes(tmp_path, monkeypatch):
    write, count = shard.write, 0

    def signalled(*args, **options):
        nonlocal count
        count += 1
        if count == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return write(*args, **options)

    monkeypatch.setattr(shard, "write", signalled)
    monkeypatch.setattr(precomputing, "choose_mesh", lambda text, count: None)
    with pytest.raises(
        StoppedError,
        match=f"SIGTERM: records left: {COUNT - 7}; run the same command to resume",
    ):
        run(config("relay"), tmp_path / "out")
    monkeypatch.undo()
    first = tmp_path / "out.partial" / "encoded-train.array_record-00000-of-00003"
    assert {path.name for path in first.parent.iterdir()} == {IDENTITY, first.name}
    first.write_bytes(b"cut off")
    assert run(config("relay"), tmp_path / "out")["made"] == COUNT  # that shard too, which is none
    assert contents(tmp_path / "out") == contents(cache_of("float32", "float32"))


def test_another_encoding_in_the_same_place(tmp_path):
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    run(config("relay"), out, share=Share(0, 2))
    before = contents(partial)
    for other, changed in (({"text": "int8"}, "text.dtype"), ({"latents": None}, "latents, view")):
        with pytest.raises(
            InputError,
            match=f"out.partial was begun with other values of {changed}; give those values",
        ):
            run(config("relay"), out, **other)
    assert contents(partial) == before
    run(config("relay"), out, latents="float16", text=None, overwrite=True)
    assert read_identity(out)["latents"]["dtype"] == "float16"
    with pytest.raises(
        InputError,
        match=r"out was encoded with other values of latents\.dtype; give --overwrite",
    ):
        run(config("relay"), out, latents="bfloat16", text=None)
    with pytest.raises(InputError, match="holds something other than a feature cache"):
        run(config("relay"), data(), overwrite=True)
    assert len(records()) == COUNT
    (tmp_path / "b.partial").mkdir()
    (tmp_path / "b.partial" / "mine").touch()
    with pytest.raises(InputError, match=r"b\.partial exists and holds 'mine'"):
        run(config("relay"), tmp_path / "b")
