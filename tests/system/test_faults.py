"""Faults in the middle of training: signals, full disks, NaN, the clock, damaged records.

Nothing is lost past the last checkpoint.
"""

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tqdm.std
from small_disks import small_disk
from states import assert_equal, named_leaves, untimed
from toy_runs import CADENCE, toy

from cv3jax import cli
from cv3jax.checkpoints import runs
from cv3jax.training.loop import NonFiniteLossError
from cv3jax.training.metrics import MetricsLog, read_lines
from data_pipeline import cli as data_cli
from data_pipeline.io.errors import InputError
from data_pipeline.loading.loader import make_loader
from data_pipeline.loading.settings import CropSettings, LoaderSettings
from data_pipeline.records.records import open_records
from data_pipeline.scenes import dataset

# no checkpoint but the last, no line at the step of a stop
AT_END = dataclasses.replace(CADENCE, log=3, save=0)


def curve(workdir) -> list[dict]:
    return untimed(read_lines(workdir / "metrics.jsonl"))


def same(ours, theirs) -> None:
    """Every array of two train states, bit for bit."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert_equal(named_leaves(ours), named_leaves(theirs))


def ended(command, capsys) -> tuple[int, list[str]]:
    """How `command()` ends under the dispatcher: (exit code, what it said on stderr but for the
    progress bar).
    """
    capsys.readouterr()
    with pytest.raises(SystemExit) as e:
        cli.run_command(lambda argv: command())
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return e.value.code, [line for line in lines if line and not line.startswith("toy: ")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(state, metrics) of a run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("whole")
    return toy(workdir, cadence=AT_END), curve(workdir)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    number, code, tmp_path, capsys, whole
):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    def send(step):
        if step == 4:
            os.kill(os.getpid(), number)

    exit_code, lines = ended(lambda: toy(tmp_path, before=send, cadence=AT_END), capsys)
    assert exit_code == code
    assert lines[-1].startswith(
        f"cv3jax: {number.name}: stopped after step 4, saved in {tmp_path}/checkpoints/4; run the"
        " same command"
    )
    assert runs.steps(tmp_path / "checkpoints") == [4]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    seen = []
    same(toy(tmp_path, before=seen.append, cadence=AT_END), whole[0])
    assert seen == [5, 6, 7, 8]
    assert curve(tmp_path) == whole[1]  # the mean over steps 4 to 6 too
    assert [line["step"] for line in whole[1]] == [3, 6, 8]


def test_a_second_signal_is_obeyed_at_once(tmp_path):
    # a shell's background job ignores it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def twice(step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            toy(tmp_path, before=twice)
    finally:
        signal.signal(signal.SIGINT, before)
    assert runs.steps(tmp_path / "checkpoints") == []


def poisoned(at: int):
    """A `place` that gives batch number `at` a NaN."""
    count = 0

    def place(batch):
        nonlocal count
        count += 1
        return jax.device_put(batch * np.float32("nan") if count == at else batch)

    return place


@pytest.mark.parametrize("stop", [False, True], ids=["rarely logged", "stopped at the same step"])
def test_a_nan_from_the_data_is_noticed_and_never_saved(stop, tmp_path):
    steps = []

    def before(step):
        steps.append(step)
        if stop and step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    rarely = dataclasses.replace(CADENCE, steps=100, log=0, save=0)
    with pytest.raises(
        NonFiniteLossError,
        match=(
            "step 2: loss and grad_norm and param_norm not finite; stopped, there is no checkpoint"
        ),
    ):
        toy(tmp_path, place=poisoned(2), before=before, cadence=rarely)
    # it is looked at before the next one where it has ended by then, else while that runs
    assert steps[-1] in ((2,) if stop else (2, 3))
    assert runs.steps(tmp_path / "checkpoints") == []


@pytest.mark.filterwarnings("ignore:.*Event loop is closed:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(kind, tmp_path, capsys):
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
        remains = f"the checkpoint of step {left[-1]} remains" if left else "there is none yet"
        assert f"), {remains}; make room and run the same command to continue" in lines[0]
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
        assert lines[-1].endswith("); make room there or give another directory")
        assert not [line for line in lines if "Traceback" in line]
        assert list(disk.iterdir()) == []
        more()
        build()
        assert len(open_records(disk / "data")) == 200


def test_metrics_that_cannot_be_written_are_one_line(tmp_path, capsys, monkeypatch, whole):
    write = MetricsLog.write
    with open("/dev/full", "a") as no_room:

        def full(self, step, values):
            if step == 6:
                self._file.close()
                self._file = no_room
            write(self, step, values)

        monkeypatch.setattr(MetricsLog, "write", full)
        code, lines = ended(
            lambda: toy(tmp_path, cadence=dataclasses.replace(AT_END, save=4)), capsys
        )
    assert (code, lines) == (1, [f"cv3jax: {tmp_path}/metrics.jsonl: {os.strerror(errno.ENOSPC)}"])
    monkeypatch.undo()
    assert runs.steps(tmp_path / "checkpoints") == [4]
    same(toy(tmp_path, cadence=AT_END), whole[0])


def test_the_clock_may_jump(tmp_path, monkeypatch, whole):
    now, offset = time.time, 0.0
    for module in (time, tqdm.std):
        monkeypatch.setattr(module, "time", lambda: now() + offset)
    elapsed = []
    close = MetricsLog.close
    monkeypatch.setattr(
        MetricsLog,
        "close",
        lambda self: elapsed.append(self._bar.format_dict["elapsed"]) or close(self),
    )

    def jump(step):
        nonlocal offset
        offset = {3: -86_400.0, 6: 10 * 86_400.0}.get(step, offset)

    cadence = dataclasses.replace(CADENCE, log=3, save=1, keep=3)
    state = toy(tmp_path, before=jump, cadence=cadence)
    same(state, whole[0])
    assert runs.steps(tmp_path / "checkpoints") == [6, 7, 8]
    seconds = [line["seconds"] for line in read_lines(tmp_path / "metrics.jsonl")]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    assert seconds[-1] < 3600
    assert 0 <= elapsed[0] < 3600
    os.utime(tmp_path / "checkpoints" / "6")  # the newest by the clock, not by its step
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    seen = []
    same(toy(tmp_path, before=seen.append, cadence=cadence), state)
    assert seen == [8]


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
