"""Test faults of disks and files in training and in builds.

The disk is full, or records or metrics are damaged. Each ends in one line, and nothing is lost past
the last checkpoint.
"""

import dataclasses
import errno
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from faults import curve, ended, same
from small_disks import small_disk
from toy_runs import CADENCE, toy

from cv3jax.checkpoints import runs
from data_pipeline import cli as data_cli
from data_pipeline.io.errors import InputError
from data_pipeline.loading.loader import make_loader
from data_pipeline.loading.settings import CropSettings, LoaderSettings
from data_pipeline.records.records import open_records
from data_pipeline.scenes import dataset


@pytest.mark.filterwarnings("ignore:.*Event loop is closed:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_a_full_disk_is_one_line_and_the_run_resumes_when_there_is_room(kind, tmp_path, capsys):
    cadence = dataclasses.replace(CADENCE, keep=2)
    expected = toy(tmp_path / "whole", width=20_000, cadence=cadence)
    files = [
        path.stat()
        for path in (tmp_path / "whole" / "checkpoints" / "8").rglob("*")
        if path.is_file()
    ]
    room, largest = (
        int(2.6 * sum(file.st_blocks * 512 for file in files)),
        max(file.st_size for file in files),
    )
    with small_disk(tmp_path / "disk", room if kind == "disk" else None, largest // 2) as (
        disk,
        more,
    ):
        code, lines = ended(lambda: toy(disk / "w", width=20_000, cadence=cadence), capsys)
        left = runs.steps(disk / "w" / "checkpoints")
        assert code == 1
        assert len(lines) == 1
        assert lines[0].startswith(
            f"cv3jax: {disk}/w/checkpoints: a checkpoint could not be written ("
        )
        remains = (
            f"the checkpoint of step {left[-1]} remains" if left else "there is no checkpoint yet"
        )
        assert f"), {remains}; free some disk space and run the same command to resume" in lines[0]
        # no half of one
        assert sorted(path.name for path in (disk / "w" / "checkpoints").iterdir()) == [
            str(step) for step in left
        ]
        for step in left:
            runs.verify(disk / "w" / "checkpoints", step)
        more()
        same(toy(disk / "w", width=20_000, cadence=cadence), expected)
        assert curve(disk / "w") == curve(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_records_for_which_there_is_no_room_leave_nothing(kind, tmp_path, capsys):
    with small_disk(tmp_path / "disk", 2**17 if kind == "disk" else None, 2**16) as (disk, more):

        def build():
            data_cli.main(f"scenes --num 200 --size 64 --shards 1 --out {disk}/data".split())

        code, lines = ended(build, capsys)
        assert code == 1
        assert lines[-1].startswith(f"cv3jax: {disk}/data.partial: cannot be written (")
        assert lines[-1].endswith("); free some disk space, or give another directory")
        assert not [line for line in lines if "Traceback" in line]
        assert list(disk.iterdir()) == []
        more()
        build()
        assert len(open_records(disk / "data")) == 200


def test_a_damaged_record_stops_the_run_and_the_restored_file_continues_it(tmp_path, capsys):
    settings = dataset.SceneSettings(64, 0, "train", size=32)
    dataset.build(tmp_path / "data", settings, shards=2)
    shard = tmp_path / "data" / "records-train.array_record-00001-of-00002"
    good = shard.read_bytes()

    def run(workdir):
        data = make_loader(
            tmp_path / "data",
            LoaderSettings(
                batch_size=8, image_size=32, seed=0, crop=CropSettings(flip=True), num_threads=2
            ),
        )

        def place(batch):
            return jax.device_put(batch["image"][:, 0, 0, :2].astype(np.float32) / 255)

        return toy(workdir, data=data, place=place, cadence=dataclasses.replace(CADENCE, save=1))

    expected = run(tmp_path / "whole")
    bad = bytearray(good)
    bad[good.rindex(b"PNG") + 400] ^= 1
    shard.write_bytes(bad)
    code, lines = ended(lambda: run(tmp_path / "w"), capsys)
    assert code == 2
    assert len(lines) == 1
    assert f"of {shard} is damaged" in lines[0]
    left = runs.steps(tmp_path / "w" / "checkpoints")
    # the record's batch is in the first epoch, which is all the steps there are
    assert left[-1] < 8
    shard.write_bytes(good)
    same(run(tmp_path / "w"), expected)
    assert curve(tmp_path / "w") == curve(tmp_path / "whole")


@pytest.mark.parametrize(
    "text",
    ['{"step": 1}\nnothing\n{"step": 3}\n', '[]\n{"step": 3}\n', '{"loss": 3}\n{"step": 3}\n'],
)
def test_damaged_metrics_are_named(text, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(
        InputError, match=r"metrics\.jsonl, line [12] is not a line of metrics; remove it"
    ):
        toy(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_an_error_of_the_system_is_one_line_under_any_command(tmp_path, capsys):
    def command():
        (tmp_path / "none" / "x").write_text("")

    assert ended(command, capsys) == (
        1,
        [f"cv3jax: {tmp_path}/none/x: {os.strerror(errno.ENOENT)}"],
    )
    program = (
        "from cv3jax.cli import run_command\nrun_command(lambda argv: print('x\\n' * 100_000))"
    )
    done = subprocess.run(
        f'{sys.executable} -c "{program}" | head -1', shell=True, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("x\n", "")
