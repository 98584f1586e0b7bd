"""Test benchmarks/gpu_session.sh and its report where sections hang, die, or lack a library.

A stand-in for Python hangs or dies in place of a section. The script, its limits and its report are
the real ones.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from subprocesses import environment

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu_session.sh"
# as long as a test may take; nothing waits for it
STANDS_IN = """#!/usr/bin/env bash
case "$*" in
  *sampling.py*) echo $$ >"$PIDS"; exec sleep 3600 ;;
  *tiled_decode.py*) echo drawn; echo out of luck >&2; exit 7 ;;
  *unet.py*forward*) echo '{"half' >"${@: -1}"; exit 1 ;;
  *serve_released.py*) touch "$PIDS.ran"; exit ;;
esac
exec "$REAL" "$@"
"""


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a session whose Python is the stand-in."""
    program = tmp_path / "python"
    program.write_text(STANDS_IN)
    program.chmod(0o755)
    pids = tmp_path / "pids"
    env = environment(PYTHON=str(program), REAL=sys.executable, PIDS=str(pids))
    running = []

    def begin(*flags):
        argv = ["bash", str(SCRIPT), "--size", "tiny", "--device", "cpu", "--out", "made", *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(argv, cwd=tmp_path, env=env, **pipes))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.wait()


def gone(pids: Path) -> bool:
    """Return whether the process of the section that hangs is over."""
    try:
        os.kill(int(pids.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def result(where: Path) -> dict:
    return json.loads((where / "made/gpu_session.json").read_text())


def test_sections_that_hang_or_die_leave_the_others(start, tmp_path):
    sections = "sampling,decode,forward,serving"
    process = start("--sections", sections, "--limits", "sampling=1", "--seconds", "3600")
    said, _ = process.communicate()
    assert process.returncode == 1
    status = {name: one["status"] for name, one in result(tmp_path)["sections"].items()}
    assert status["sampling"] == "stopped at its limit of 1 s"
    assert status["decode"] == "failed (7): out of luck"
    assert status["forward"] == "failed (1): it said nothing"
    assert status["train"] == "not run: not reached"
    assert (tmp_path / "pids.ran").is_file()  # the last one ran all the same
    assert gone(tmp_path / "pids")
    for line in ("| sampling | stopped at its limit of 1 s |", "| decode   | failed (7): out of"):
        assert line in said


def test_the_whole_session_has_a_limit(start, tmp_path):
    process = start("--sections", "sampling,decode", "--seconds", "1")
    process.communicate()
    assert process.returncode != 0
    # no section begins, whether or not the check of the machine is over within the second
    assert not (tmp_path / "pids").exists()
    assert not (tmp_path / "made/decode.log").exists()


def test_a_session_that_is_stopped_has_its_table(start, tmp_path):
    process = start("--sections", "decode,sampling,serving")
    while not (tmp_path / "pids").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 143
    assert gone(tmp_path / "pids")
    status = {name: one["status"] for name, one in result(tmp_path)["sections"].items()}
    assert status["decode"] == "failed (7): out of luck"
    assert status["sampling"] == "stopped"
    assert status["serving"] == "not run: not reached"
    assert "| serving" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "huge"], "--size huge: give full or tiny"),
        (["--device", "tpu"], "--device tpu: give cuda or cpu"),
        (["--seconds", "0"], "--seconds 0: give a whole number of seconds"),
        (["--sections", "forward,backward"], "--sections backward: there is no such section"),
        (["--limits", "train=x"], "--limits train=x: give SECTION=SECONDS"),
        (["--out"], "--out has no value"),
        (["--fast"], "--fast is not an option"),
    ],
)
def test_a_bad_flag_is_one_line(flags, message, tmp_path):
    done = subprocess.run(
        ["bash", str(SCRIPT), *flags], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"benchmarks/gpu_session.sh: {message}; --help lists the options\n"
    assert list(tmp_path.iterdir()) == []


def test_help_has_the_estimates_which_add_up_to_less_than_twelve_minutes():
    said = subprocess.run(["bash", str(SCRIPT), "--help"], capture_output=True, text=True).stdout
    rows = [line.split() for line in said.splitlines() if line.startswith("  ")]
    names = ("check", "forward", "sampling", "decode", "serving", "train", "all")
    numbers = {
        row[0]: [int(word) for word in row if word.isdecimal()]
        for row in rows
        if row and row[0] in names
    }
    in_all = {name: found[-1] if name == "train" else found[-2] for name, found in numbers.items()}
    assert sum(in_all[name] for name in names[:-1]) == in_all["all"] < numbers["all"][-1] < 720


@pytest.fixture
def session(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu_session")


def test_what_is_missing_is_told_and_the_rest_is_reported(session, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(session, "missing_rival", lambda device: "no torch with CUDA")
    monkeypatch.setitem(session.NEEDS, "serving", ("flax", "a_library_of_nobody"))
    session.check(tmp_path, "cpu", "abc1234")
    assert capsys.readouterr().out == (
        "missing: serving: no a_library_of_nobody; beside forward and train: no torch with CUDA\n"
    )
    assert (tmp_path / "rival").read_text() == ""
    spread = [0.5, 0.4, 0.6]
    row = {
        "parameters": 2.9e9,
        "batch": 8,
        "side": 64,
        "dtype": "bfloat16",
        "seconds": {"alone": {"cv3jax": spread}},
        "ratio": {},
        "failed": {},
        "mfu": spread,
        "memory_bytes": {"cv3jax": 6e9},
    }
    (tmp_path / "forward.json").write_text(json.dumps({"rows": [row]}))
    (tmp_path / "forward.end").write_text("0 12 150\n")
    made = session.report(tmp_path)
    table = [line.split(" | ") for line in made["table"].splitlines()]
    forward = next(line for line in table if line[0] == "| forward ")
    assert [cell.strip() for cell in forward[3:7]] == [
        "not run: no torch with CUDA",
        "",
        "50%",
        "6.00",
    ]
    assert made["sections"]["serving"]["status"] == "not run: no a_library_of_nobody"
    stored = json.loads((tmp_path / "gpu_session.json").read_text())
    assert stored["revision"] == "abc1234"
    assert stored["sections"]["forward"]["status"] == "done"


def test_a_device_that_jax_does_not_have_is_told(session):
    assert session.missing_jax("cpu") is None
    assert session.missing_jax("cuda") == "no jax with CUDA (it runs on the cpu)"
