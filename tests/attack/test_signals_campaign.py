"""Test the campaign of signals: that it judges right, and that a small one holds."""

import signal
import subprocess
import sys
from pathlib import Path

import heeded
import pytest
import signals
from endings import judge
from rows import Row, table

LINE = "cv3jax: {}: interrupted; run the same command again\n"


@pytest.mark.parametrize(
    ("name", "code", "said", "seconds", "saves", "wrong"),
    [
        ("SIGTERM", 143, LINE.format("SIGTERM"), 0.1, False, ""),
        ("SIGTERM", 0, LINE.format("SIGTERM"), 9.0, True, ""),
        ("SIGTERM", -15, "", 0.1, True, "exit code -15"),
        ("SIGINT", 1, "Traceback (most recent call last)\nKeyboardInterrupt", 0.1, False, "traceb"),
        ("SIGINT", 130, "", 0.1, False, "exit code 130"),
        ("SIGINT twice", 130, f"{LINE.format('SIGINT')}a library: x", 0.1, False, "its last line"),
        ("SIGHUP", 0, "done", 9.0, False, "the signal was swallowed"),
        ("SIGHUP", 0, "done", 0.1, False, ""),
        ("kill -9", -9, "", 0.1, False, ""),
        ("kill -9", 1, "", 0.1, False, "exit code 1"),
        ("SIGSTOP, SIGCONT", 0, "done", 9.0, False, ""),
        ("SIGSTOP, SIGCONT", 1, "cv3jax: a disk", 9.0, False, "exit code 1"),
    ],
)
def test_an_ending_is_judged(name, code, said, seconds, saves, wrong):
    found = judge(name, code, said, seconds, saves=saves)
    assert found.startswith(wrong)
    assert bool(found) == bool(wrong)


def test_a_table_has_its_totals():
    rows = [Row("signals", "a", 3, 3, 0), Row("signals", "b | c", 4, 2, 2, "x | y")]
    assert table(rows).splitlines()[2:] == [
        "| signals | a | 3 | 3 | 0 |  |",
        "| signals | b / c | 4 | 2 | 2 | x / y |",
        "| all | | 7 | 5 | 2 | |",
    ]


def test_commands_heed_what_a_background_job_ignores():
    child = "import signal as s; print(s.getsignal(s.SIGINT), s.getsignal(s.SIGHUP))"
    program = f"""
import signal, subprocess, sys
from heeded import heed_in_children
for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
subprocess.run([sys.executable, "-c", {child!r}])
heed_in_children()
signal.raise_signal(signal.SIGINT)
signal.raise_signal(signal.SIGHUP)
subprocess.run([sys.executable, "-c", {child!r}])
"""
    folder = Path(heeded.__file__).parent
    said = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=folder)
    ignored, heeds = said.splitlines()
    assert ignored == f"{signal.SIG_IGN} {signal.SIG_IGN}"
    assert "default_int_handler" in heeds
    assert heeds.endswith(f" {signal.SIG_DFL}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data build", "data recaption"])
def test_six_signals_leave_what_an_undisturbed_command_leaves(name):
    rows = signals.run(seed=1, only=[name], tries=6)
    assert sum(row.tries for row in rows) == 6
    assert [row for row in rows if row.failed] == []
