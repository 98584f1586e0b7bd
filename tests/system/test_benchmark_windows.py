"""Test the benchmarks of windows of shards at small sizes: their figures, bars and files."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found = importlib.import_module("shuffle_windows")
    monkeypatch.setattr(found, "BATCH", 64)
    monkeypatch.setattr(found, "SHARD", 50)
    return found


def test_pairs_of_a_batch_are_counted(windows):
    whole, one = (windows.statistics_of(32, window, 0, 40) for window in (0, 1))
    assert whole["same_shard"] == pytest.approx(100 * 49 / (32 * 50 - 1), rel=0.2)
    assert whole["distance"] == pytest.approx(1 / 3, rel=0.1)
    assert one["same_shard"] > 45  # of one shard, or of two where it ends in a batch
    assert one["sorted"] > 3 > 1.5 > whole["sorted"]


def test_a_bar_that_is_missed_is_said(windows, monkeypatch, tmp_path):
    flags = ["--shards", "32", "--windows", "4", "--batches", "20", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", ["x", *flags, "--out", str(tmp_path)])
    monkeypatch.setattr(windows, "MOST", 0.0)
    with pytest.raises(SystemExit, match="dealt records have a spread of"):
        windows.main()
    stored = json.loads((tmp_path / "shuffle_windows.json").read_text())
    assert set(stored["results"]) == {"global", "windows:4"}
    assert stored["facts"]["date"] in (tmp_path / "shuffle_windows.md").read_text()


def test_many_records_are_opened_read_and_resumed(tmp_path):
    flags = ["--records", "6400", "--shard", "50", "--folder", tmp_path, "--out", tmp_path]
    command = [sys.executable, ROOT / "benchmarks" / "many_records.py", *flags, "--batches", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "many_records.json").read_text())["results"]
    assert [step[0] for step in found["windows"]] == [
        "import",
        "open",
        "sizes and buckets",
        "read",
        "resume",
        "one window",
    ]
    assert 0 < found["global"][-1][2] < 2e9
