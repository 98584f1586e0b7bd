"""Test `cv3jax tables`: what it writes, what it measures, and what it refuses."""

import json
import subprocess
from unittest import mock

import pytest
import table_reports

from cv3jax import recipes
from cv3jax.commands import tables
from data_pipeline.io.errors import FailedRunError, InputError

JUDGED = {"judge.all": 0.9, "judge.colour": 0.95, "judge.detail": 0.8, "fdlite": 90.0}


def run(tmp_path, *more):
    given = ["--config=scenes_tables", f"--config.reports={tmp_path / 'r'}"]
    tables.main([*given, "--out", str(tmp_path / "o"), "--json", str(tmp_path / "j"), *more])
    return json.loads((tmp_path / "j").read_text())


def test_it_writes_both_forms_and_the_figures(tmp_path, capsys):
    table_reports.write(tmp_path / "r" / "scenes" / "scenes", "scenes", JUDGED)
    found = run(tmp_path)
    text = (tmp_path / "o" / "tables.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "**0.900** (0.890 to 0.910)" in text
    assert "paper" not in text  # nothing is published of scenes
    assert "0.890 to 0.910" in (tmp_path / "o" / "tables.html").read_text()
    assert found["tables"]["table1"]["cells"]["scenes"]["scenes/judge.all"]["value"] == 0.9
    assert [note["label"] for note in found["missing"]] == [
        "scenes, distilled (4+1)",  # without its time
        "its teacher (20+10)",
        "the teacher in 4 + 1 (4+1)",
    ]
    assert f"--out {tmp_path / 'r' / 'scenes_teacher' / 'scenes'}" in found["missing"][1]["command"]


def test_it_measures_what_is_missing_and_says_why_some_is_not(tmp_path, monkeypatch):
    asked = []

    def evaluate(words, **options):
        asked.append(words[2:])
        out, name = words[-1], words[words.index("--checkpoint") + 1]
        if "--steps" in words:
            return mock.Mock(returncode=2, stderr="loading\ncv3jax: there is no such thing\n")
        time = table_reports.timing(2.0 if name == "scenes" else 5.0)
        table_reports.write(tmp_path / out, "scenes", JUDGED, time=time)
        return mock.Mock(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", evaluate)
    found = run(tmp_path, "--measure")
    assert [words[0] for words in asked] == ["cv3jax"] * 3
    assert asked[0][1:6] == ["evaluate", "--checkpoint", "scenes", "--prompts", "scenes"]
    assert found["tables"]["table1"]["cells"]["scenes_teacher"]["time"]["value"] == 5.0
    assert [note["why"] for note in found["missing"]] == ["cv3jax: there is no such thing"]
    asked.clear()
    run(tmp_path, "--measure")
    assert len(asked) == 1  # what is there is not measured again


def test_a_command_that_fails_ends_it(tmp_path, monkeypatch):
    failed = mock.Mock(returncode=1, stderr="cv3jax: the disk is full")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(FailedRunError, match="ended with 1: cv3jax: the disk is full; run the sam"):
        run(tmp_path, "--measure")


def test_a_wrong_recipe_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown recipe 'nope'"):
        tables.main(["--config=nope", "--out", str(tmp_path)])
    with pytest.raises(InputError, match="a recipe of tables needs reports"):
        tables.main(["--config=base_512", "--out", str(tmp_path)])
    with pytest.raises(InputError, match="has no field 'modles'"):
        tables.main(["--config=paper_tables", "--config.modles=x", "--out", str(tmp_path)])


def test_help_lists_the_recipes_of_tables_alone():
    said = tables.parser().format_help()
    assert "paper_tables, scenes_tables" in said
    assert "scenes_ablations" not in said
    assert {*recipes.evaluations_by(swept=True)} == {"scenes_ablations"}
