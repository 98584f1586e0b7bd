"""Test damaged checkpoints and two runs in one workdir.

Both are refused by name before anything changes. A damaged checkpoint is skipped only on request.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_runs
from states import assert_equal, leaves
from toy_runs import CADENCE, toy

from cv3jax.checkpoints import cascades, manifest, runs, writing
from cv3jax.training import run as training
from cv3jax.training.metrics import read_lines
from data_pipeline.io import locks
from data_pipeline.io.errors import InputError

HARMLESS = ("_CHECKPOINT_METADATA", "commit_success.txt")  # times that nobody reads


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def remove(path):
    path.unlink()


def everything(workdir) -> dict[str, tuple]:
    """Return the content of a directory with modification times."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in workdir.rglob("*")
    }


def vae(workdir, resume_from=None) -> dict:
    """Return the tiny autoencoder's run."""
    with tiny_runs.split_small():
        return training.run(tiny_runs.config("vae", *tiny_runs.MESH["vae"]), workdir, resume_from)


@pytest.fixture
def workdir(tmp_path):
    """Return a finished run with checkpoints 3 and 6."""
    return shutil.copytree(tiny_runs.trained("vae").workdir, tmp_path / "w")


@pytest.mark.parametrize("damage", [flip, cut, remove])
def test_damage_of_any_file_of_a_checkpoint_is_named(damage, tmp_path):
    toy(tmp_path / "w")
    step = tmp_path / "w" / "checkpoints" / "8"
    names = sorted(str(path.relative_to(step)) for path in step.rglob("*") if path.is_file())
    assert len([name for name in names if name.startswith("state/")]) > 3
    for name in names:
        shutil.copytree(tmp_path / "w", tmp_path / "x")
        damaged = tmp_path / "x" / "checkpoints"
        damage(damaged / "8" / name)
        if name.split("/")[-1] in HARMLESS:
            runs.verify(damaged, 8)
            toy(tmp_path / "x")  # opens and reads it
        else:
            with pytest.raises(runs.DamagedError) as e:
                runs.verify(damaged, 8)
            assert str(damaged / "8") in str(e.value)
            assert f"{'manifest.json' if name == 'manifest.json' else name} " in str(e.value)
            assert str(e.value).endswith(
                "; restore the file, or give --resume-from=6 to resume from that older checkpoint"
            )
        shutil.rmtree(tmp_path / "x")


def test_a_damaged_checkpoint_is_refused_and_the_older_one_is_used_only_when_asked_for(
    workdir, capsys
):
    newest = workdir / "checkpoints" / "6"
    flip(max((newest / "state").rglob("*"), key=lambda path: path.stat().st_size))
    before = everything(workdir)
    with pytest.raises(
        InputError,
        match=(
            f"checkpoint {newest} is damaged: state/.* differs from what was written;"
            " .*resume-from=3"
        ),
    ):
        vae(workdir)
    with pytest.raises(InputError, match=f"--resume-from=4: {workdir}/checkpoints has no such"):
        vae(workdir, resume_from=4)
    assert everything(workdir) == before
    vae(workdir, resume_from=3)
    assert (
        f"resuming from step 3; the newer checkpoint was moved to {workdir}/set_aside/6"
        in capsys.readouterr().err
    )
    assert manifest.damage(workdir / "set_aside" / "6")  # it, not a new one
    assert_equal(leaves(workdir, 6), leaves(tiny_runs.trained("vae").workdir, 6))
    assert [line["loss"] for line in read_lines(workdir / "metrics.jsonl")] == tiny_runs.trained(
        "vae"
    ).losses
    assert runs.steps(workdir / "checkpoints") == [3, 6]
    # the same command, given again by a scheduler, does not go back again
    with pytest.MonkeyPatch.context() as patch:
        tiny_runs.watch(patch, lambda step: pytest.fail("trained"))
        vae(workdir, resume_from=3)
    assert sorted(path.name for path in (workdir / "set_aside").iterdir()) == ["6"]


def test_where_no_checkpoint_is_intact_there_is_none_to_offer(workdir):
    for step in (3, 6):
        remove(workdir / "checkpoints" / str(step) / "manifest.json")
    with pytest.raises(
        InputError,
        match=(
            r"6 is damaged: manifest\.json is missing; restore the file, or give a new --workdir"
            r" \(no older"
            r" checkpoint is"
        ),
    ):
        vae(workdir)
    with pytest.raises(InputError, match=r"3 is damaged: manifest\.json is missing"):
        vae(workdir, resume_from=3)
    assert runs.steps(workdir / "checkpoints") == [3, 6]
    with pytest.raises(InputError, match=r"--resume-from=3: .*checkpoints has no checkpoint"):
        vae(workdir.with_name("new"), resume_from=3)
    assert not workdir.with_name("new").exists()


def test_a_kill_in_the_middle_of_removing_an_old_checkpoint_does_no_harm(tmp_path):
    whole = toy(tmp_path / "whole")
    toy(tmp_path / "w", cadence=dataclasses.replace(CADENCE, steps=6))
    assert runs.steps(tmp_path / "w" / "checkpoints") == [2, 4, 6]
    for name in ("state", "manifest.json", "_CHECKPOINT_METADATA"):
        path = tmp_path / "w" / "checkpoints" / "2" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    resumed = toy(tmp_path / "w", cadence=dataclasses.replace(CADENCE, keep=2))
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    assert runs.steps(tmp_path / "w" / "checkpoints") == [6, 8]


def test_checkpoints_set_aside_twice_are_all_kept(tmp_path):
    for number in (1, 2):
        for step in (3, 6, 9):
            (tmp_path / "c" / str(step)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "c" / "9" / "which").write_text(str(number))
        runs.set_aside(tmp_path / "c", 3, tmp_path / "aside")
    assert runs.steps(tmp_path / "c") == [3]
    assert {
        path.name: path.joinpath("which").read_text() for path in tmp_path.glob("aside/9*")
    } == {"9": "1", "9.1": "2"}


@pytest.mark.parametrize("damage", [flip, cut, remove])
def test_a_damaged_part_of_a_cascade_is_named(damage, workdir):
    part = workdir / "cascade" / "vae"
    cascades.load_part(part, None)
    damage(max(part.rglob("d/*"), key=lambda path: path.stat().st_size))
    with pytest.raises(
        InputError,
        match=f"{part} is damaged: .*d/.* (has|is|differs) .*; restore it, or let its run write it"
        " again",
    ):
        cascades.load_part(part, None)


def test_a_part_that_another_program_wrote_is_taken_as_it_is(workdir):
    part = workdir / "cascade" / "vae"
    expected = cascades.load_part(part, None)
    remove(part / "manifest.json")
    assert_equal(
        {
            "x": np.concatenate(
                [np.ravel(x) for x in jax.tree.leaves(cascades.load_part(part, None))]
            )
        },
        {"x": np.concatenate([np.ravel(x) for x in jax.tree.leaves(expected)])},
    )


HOLDER = """import sys, time
from pathlib import Path
from data_pipeline.io import locks
with locks.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_on_a_workdir_is_refused_and_a_killed_one_leaves_no_lock(workdir):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workdir)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "held\n"
        before = everything(workdir)
        who = f"process {first.pid} on {socket.gethostname()}"
        with pytest.raises(
            InputError,
            match=f"--workdir {workdir} is in use by {who}; wait for it, stop it, or give another",
        ):
            vae(workdir)
        assert everything(workdir) == before
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait(60)
    assert (workdir / locks.NAME).exists()
    with locks.hold(workdir):
        assert (
            workdir / locks.NAME
        ).read_text() == f"process {os.getpid()} on {socket.gethostname()}"
        with (
            pytest.raises(InputError, match=f"in use by process {os.getpid()}"),
            locks.hold(workdir),
        ):
            pass
        assert (workdir / locks.NAME).exists()
    assert not (workdir / locks.NAME).exists()


def test_a_directory_that_was_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(InputError, match="no"), locks.hold(tmp_path / "a" / "b"):
        raise InputError("no")
    assert list(tmp_path.iterdir()) == []
    with locks.hold(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "x").write_text("")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x"]
    with (
        pytest.raises(InputError, match="--workdir /proc/none/w cannot be written"),
        locks.hold(Path("/proc/none/w")),
    ):
        pass


def test_nothing_stays_of_a_failed_save_whose_other_parts_are_still_being_written(tmp_path):
    def write():
        for part in range(10):
            file = tmp_path / f"2{writing.UNFINISHED}" / "state" / str(part)
            with contextlib.suppress(FileNotFoundError):  # removed between the two
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(b"part")
            time.sleep(0.02)

    (tmp_path / "1").mkdir()
    with ThreadPoolExecutor() as others:
        written = others.submit(write)
        writing.remove_unfinished(tmp_path, quiet=1.0)
        assert written.done()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_writer_that_does_not_end_is_not_waited_for(tmp_path):
    stop = threading.Event()

    def write():
        while not stop.wait(0.01):
            with contextlib.suppress(FileExistsError):  # it was there, and is removed just now
                (tmp_path / f"2{writing.UNFINISHED}").mkdir()

    with ThreadPoolExecutor() as others:
        written = others.submit(write)
        writing.remove_unfinished(tmp_path, quiet=60.0, most=0.1)
        assert not written.done()
        stop.set()
