"""Test what is told of a run from its workdir alone: state, pace, checkpoints, damage."""

import json
import os
import socket
import time

import pytest
import toy_runs

from cv3jax.commands import status as command
from cv3jax.training import heartbeat
from cv3jax.training.resume import hold
from cv3jax.training.status import read_status
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError, StoppedError

NOW = 1_000_000.0


def beat(workdir, **facts):
    """Write a status.json of a run that is alive, but for `facts`."""
    known = {
        "state": "running",
        "beat": NOW - 3,
        "every": 5.0,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "why": "",
        "doing": "step",
        "waits": [],
        "name": "base",
        "step": 40,
        "steps": 100,
        "ended": NOW - 4,
    }
    (workdir / "status.json").write_text(json.dumps(known | facts))


def metrics(workdir, *lines):
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def told(workdir):
    return read_status(str(workdir), NOW)


def test_the_time_left_is_the_steps_left_at_the_recent_pace_without_compiling(tmp_path):
    beat(tmp_path)
    metrics(
        tmp_path,
        {"step": 10, "loss": 1.0, "seconds": 130.0, "seconds_compile": 100.0},
        {"step": 30, "loss": 0.5, "seconds": 190.0, "seconds_compile": 120.0, "mfu": 0.4},
    )
    found = told(tmp_path)
    assert (found["state"], found["step"], found["steps"]) == ("running", 40, 100)
    assert found["seconds_per_step"] == 2.0  # 40 s without compilation, in 20 steps
    assert found["eta_seconds"] == 120.0
    assert found["losses"] == [[10, 1.0], [30, 0.5]]
    text = "\n".join(command.lines(found))
    assert "step 40 of 100 (40.0%), 2 min 0 s left" in text
    assert "MFU 40.0%" in text


@pytest.mark.parametrize(
    ("facts", "state", "said"),
    [
        ({}, "running", "computing steps"),
        ({"doing": "data"}, "running", "waiting for data"),
        ({"waits": ["compiling the train step"]}, "running", "compiling the train step"),
        ({"ended": NOW - 700}, "running", "no step has ended for 700 s"),
        ({"pid": 2**22 + 1}, "killed", "is gone"),
        ({"host": "elsewhere", "pid": 2**22 + 1}, "running", "computing steps"),
        ({"host": "elsewhere", "beat": NOW - 300}, "silent", "on elsewhere for 300 s"),
        ({"state": "stopped", "why": "SIGTERM: stopped after step 9"}, "stopped", "after step 9"),
        ({"state": "failed", "why": "no space"}, "failed", "no space"),
    ],
)
def test_how_a_run_is(tmp_path, facts, state, said):
    beat(tmp_path, **facts)
    found = told(tmp_path)
    assert found["state"] == state
    assert said in found["doing"]
    assert (found["eta_seconds"] is None) or state == "running"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("status.json", "{"),
        ("status.json", '{"state": "fine"}'),
        ("status.json", "[" * 10**5),
        ("metrics.jsonl", "x\n" + '{"step": 1}\n'),
        ("metrics.jsonl", '{"step": "1"}\n{"step": 2}\n'),
        ("run.json", '{"changes": [3]}'),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, text):
    beat(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name} is damaged"):
        told(tmp_path)


def test_no_run_and_pipes_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no run"):
        told(tmp_path)
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(InputError, match="it is a pipe"):
        told(tmp_path)


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path):
    metrics(tmp_path, {"step": 3, "loss": 2.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    found = told(tmp_path)
    assert (found["state"], found["step"], found["losses"]) == ("unknown", 3, [[3, 2.0]])


def test_only_the_end_of_long_metrics_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("cv3jax.training.status.TAIL", 60)
    metrics(tmp_path, *({"step": n, "loss": 1.0} for n in range(1, 100)))
    assert [step for step, _ in told(tmp_path)["losses"]] == [98, 99]


def test_a_run_beats_and_says_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "EVERY", 0.01)
    seen = []

    def before(step):
        if step == 5:
            patience = time.monotonic() + 20
            while told_step() != 4 and time.monotonic() < patience:
                time.sleep(0.01)
            seen.append(read_status(str(tmp_path)))

    def told_step():
        return json.loads((tmp_path / "status.json").read_text()).get("step")

    with hold(tmp_path):
        assert not (tmp_path / "status.json").exists()  # it may still be refused
        heartbeat.begin()
        toy_runs.toy(tmp_path, before=before)
    (during,) = seen
    assert (during["name"], during["state"]) == ("toy", "running")
    assert (during["step"], during["steps"]) == (4, 8)
    assert during["checkpoint"]["step"] in (2, 4)
    after = read_status(str(tmp_path))
    assert (after["state"], after["step"], after["checkpoint"]["step"]) == ("finished", 8, 8)
    assert 0 <= after["checkpoint"]["age_seconds"] < 60

    def stopped():
        heartbeat.begin()
        raise StoppedError(15, "stopped after step 8")

    with pytest.raises(StoppedError), hold(tmp_path):
        stopped()
    again = read_status(str(tmp_path))
    assert (again["state"], again["step"]) == ("stopped", 8)
    assert again["doing"] == "SIGTERM: stopped after step 8"


def test_the_innermost_wait_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "EVERY", 1000.0)
    with progress.waiting("reading what the run depends on"), hold(tmp_path):
        heartbeat.begin()
        assert read_status(str(tmp_path))["doing"] == "reading what the run depends on"
    assert progress.waits == []


def test_a_full_disk_ends_no_run(tmp_path, monkeypatch, capsys):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(heartbeat, "replacing", full)
    with heartbeat.beating(tmp_path):
        heartbeat.begin()
    said = capsys.readouterr().err
    assert said.count("status.json cannot be written (No space left on device)") == 1


def test_changes_at_restarts_are_told(tmp_path):
    beat(tmp_path)
    change = {"step": 20, "field": "optim.lr", "was": 1e-3, "now": 5e-4}
    (tmp_path / "run.json").write_text(json.dumps({"changes": [change]}))
    assert told(tmp_path)["changes"] == [change]
    assert any("from step 20: optim.lr 0.001 → 0.0005" in x for x in command.lines(told(tmp_path)))


def test_the_newest_round_of_a_distillation_is_told(tmp_path):
    beat(tmp_path)
    for number, name in enumerate(["8_steps", "4_steps"]):
        place = tmp_path / "rounds" / name
        place.mkdir(parents=True)
        metrics(place, {"step": 5, "loss": float(number)})
        os.utime(place / "metrics.jsonl", ns=(10**9 * number, 10**9 * number))
    assert told(tmp_path)["losses"] == [[5, 1.0]]


def test_a_plot_falls_with_the_loss():
    rows = command.plot([[n, 10.0 - n] for n in range(10)])[1:-1]
    heights = ["".join(row[column] for row in rows).count("█") for column in range(14, 24)]
    assert heights[0] == command.HEIGHT
    assert heights == sorted(heights, reverse=True)
    assert command.plot([[1, 2.0]]) == []


def test_several_runs_get_a_line_each(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        beat(tmp_path / name, state="finished")
    command.main([str(tmp_path / "a"), str(tmp_path / "b"), "--watch", "1"])  # all are over
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0][-1] for line in lines] == ["a", "b"]
    assert all(": finished, step 40 of 100 (40.0%)" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.4, "4 s"), (61, "1 min 1 s"), (12_000, "3 h 20 min"), (1_000_000, "11 d 13 h")],
)
def test_durations(seconds, text):
    assert command.duration(seconds) == text


def test_json_has_the_figures(tmp_path):
    beat(tmp_path)
    metrics(tmp_path, {"step": 3, "loss": 2.0, "heldout/loss": 1.5, "heldout/loss_t020": 1.0})
    command.main([str(tmp_path), "--json", str(tmp_path / "out.json")])
    (one,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert one["losses"] == [[3, 2.0]]
    assert one["heldout"] == {"step": 3, "heldout/loss": 1.5, "heldout/loss_t020": 1.0}
