"""Test progress on stderr: lines in files, a rewritten line on terminals, and named waits."""

import io
import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from data_pipeline.io import progress

ROOT = Path(__file__).parents[2]
PROGRAM = """
import time
from data_pipeline.io import progress
progress.EVERY = {True: 0.0, False: 0.0}
with progress.bar(3, "train", "step", initial=1) as bar:
    progress.say("above")
    for loss in (0.5, 0.25):
        bar.set_postfix({"loss": loss}, refresh=False)
        bar.update()
"""


def test_a_file_gets_lines(tmp_path):
    with (tmp_path / "log").open("w") as file:
        subprocess.run([sys.executable, "-c", PROGRAM], stderr=file, check=True, cwd=ROOT)
    lines = (tmp_path / "log").read_bytes().decode().split("\n")  # splitlines() would hide a \r
    assert [line.partition(" [")[0] for line in lines] == [
        "train: 33%, 1/3 step",
        "above",
        "train: 67%, 2/3 step",
        "train: 100%, 3/3 step",
        "",
    ]
    assert lines[2].endswith(", loss=0.5]")


def test_a_terminal_line_is_rewritten():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    subprocess.run([sys.executable, "-c", PROGRAM], stderr=theirs, check=True, cwd=ROOT)
    os.close(theirs)
    written = os.read(ours, 100_000).decode()
    os.close(ours)
    assert written.count("\r\n") == 2  # "above" and the end
    assert written.count("\rtrain: ") >= 4


def test_a_file_gets_a_line_every_half_minute(monkeypatch):
    written, now = io.StringIO(), 0.0
    monkeypatch.setattr(sys, "stderr", written)
    with progress.bar(100, "train", "step") as bar:
        bar._time = lambda: now
        bar.start_t = bar.last_print_t = now
        for _ in range(100):
            now += 1.0
            bar.update()
    steps = [line.split()[2] for line in written.getvalue().splitlines()]
    assert steps == ["0/100", "30/100", "60/100", "90/100", "100/100"]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(progress, "SOON", 0.02)
    monkeypatch.setattr(progress, "AGAIN", 0.1)


@pytest.mark.usefixtures("quick")
def test_a_wait_is_named_while_it_lasts(capsys):
    said, deadline = "", time.monotonic() + 60
    with progress.waiting("compiling the train step"):
        while said.count("\n") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
            said += capsys.readouterr().err
    first, second = said.splitlines()[:2]
    assert first == "cv3jax: compiling the train step ..."
    assert re.fullmatch(r"cv3jax: compiling the train step: \d+ s so far \.\.\.", second)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"cv3jax: compiling the train step: done in \d+\.\d s", last)


@pytest.mark.usefixtures("quick")
def test_a_wait_that_fails_is_not_done(capsys, monkeypatch):
    said = threading.Event()

    def wait() -> None:
        with progress.waiting("dividing"):
            assert said.wait(60)
            raise ZeroDivisionError

    monkeypatch.setattr(progress, "say", lambda line: print(line) or said.set())
    with pytest.raises(ZeroDivisionError):
        wait()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cv3jax: dividing ..."
    assert not any("done" in line for line in lines)


def test_what_is_soon_done_is_not_mentioned(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SOON", 60.0)
    with progress.waiting("adding"):
        pass
    assert capsys.readouterr().err == ""


def test_all_bars_are_made_here():
    """Any other bar would write carriage returns to log files."""
    made = {
        str(path.relative_to(ROOT))
        for package in ("cv3jax", "data_pipeline")
        for path in (ROOT / package).rglob("*.py")
        if "tqdm(" in path.read_text() or "trange(" in path.read_text()
    }
    assert made == {"data_pipeline/io/progress.py"}
