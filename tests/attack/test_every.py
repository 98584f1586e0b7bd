"""Test what `make attack` reads from the programs that it runs."""

import json

import every
import pytest
from rows import Row

PYTEST = "FAILED tests/a/test_b.py::test_c - x\n2 failed, 7 passed, 1 error, 3 deselected in 4.0s\n"
FLIPS = "what     tries   noticed  harmless  failed\nfeature caches   20   15   4   1\n"
STORED = json.dumps([{"campaign": "limits", "what": "x", "tries": 2, "held": 2, "failed": 0}])
# what reads it, what was printed, exit code, the row
READ = [
    (every.tested("x"), PYTEST, 1, Row("tables", "x", 10, 7, 3, "tests/a/test_b.py::test_c")),
    (every.tested("x"), "7 passed in 1.0s", 0, Row("tables", "x", 7, 7, 0)),
    (every.tested("x"), "", 4, Row("tables", "x", 1, 0, 1, "pytest ended with 4")),
    (every.fuzzed("x"), "1,200 tries, 0 crashes\n", 0, Row("fuzz", "x", 1200, 1200, 0)),
    (
        every.fuzzed("x"),
        "seed 3: KeyError\n90 tries, 5 accepted, 1 kinds of crash\n",
        1,
        Row("fuzz", "x", 90, 89, 1, "seed 3: KeyError"),
    ),
    (every.fuzzed("x"), "9 tries, 50% past it, 2 failures", 1, Row("fuzz", "x", 9, 7, 2)),
    (every.fuzzed("x"), "Traceback", 1, Row("fuzz", "x", 1, 0, 1, "it ended with 1")),
    (every.flipped, FLIPS, 1, Row("flipped bits", "feature caches", 20, 19, 1)),
    (every.fuzzed("x"), "9 tries, 0 crashes", -9, Row("fuzz", "x", 10, 9, 1, "it ended with -9")),
    (every.flipped, "Traceback", 1, Row("flipped bits", "all", 1, 0, 1, "it ended with 1")),
    (every.stored("limits"), STORED, 0, Row("limits", "x", 2, 2, 0)),
    (
        every.stored("limits"),
        "",
        -9,
        Row("limits", "the campaign itself", 1, 0, 1, "it ended with -9"),
    ),
]


@pytest.mark.parametrize(("read", "said", "code", "row"), READ)
def test_counts_are_read_from_what_a_program_prints(read, said, code, row):
    assert read(said, code) == [row]


def test_flips_that_ended_before_their_last_kind_have_failed():
    rows = every.flipped("what  tries\nrecords   20   15   5   0\nTraceback", 1)
    assert [row.failed for row in rows] == [0, 1]


def test_a_program_that_printed_nothing_has_failed():
    program = ("-c", "raise SystemExit(3)", "{json}")
    campaign = every.Campaign(program, 1, every.stored("limits"))
    [row] = every.ended(campaign, lambda seconds: None)
    assert (row.failed, row.notes) == (1, "it ended with 3")


def test_everything_that_it_runs_is_there():
    for files in every.TABLES.values():
        assert [name for name in files if not (every.ROOT / "tests" / name).is_file()] == []
    named = [
        one.words[0] for name in ("fuzz", "flips", "limits") for one in every.campaigns(1)[name]
    ]
    assert len(named) == 6
    assert [name for name in named if not (every.ROOT / name).is_file()] == []


def test_a_failure_is_the_exit_code(monkeypatch, tmp_path, capsys):
    program = ("-c", "print('9 tries, 1 crashes')")
    made = {"fuzz": [every.Campaign(program, 1, every.fuzzed("x"))]}
    monkeypatch.setattr(every, "campaigns", lambda seconds: made)
    assert every.main(["--json", str(tmp_path / "j")]) == 1
    assert json.loads((tmp_path / "j").read_text())["rows"][0]["failed"] == 1
    assert "| all | | 9 | 8 | 1 | |" in capsys.readouterr().out
    made["fuzz"] = [every.Campaign(("-c", "print('9 tries, 0 crashes')"), 1, every.fuzzed("x"))]
    assert every.main([]) == 0
