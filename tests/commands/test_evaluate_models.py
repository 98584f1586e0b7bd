"""Test `cv3jax evaluate --model` and `--time`: drawn, timed and scored, and what they refuse."""

import json

import golden_models
import pytest
import scored
import tiny_pipelines
from painter import LINES, Painter

from cv3jax.commands import evaluate
from cv3jax.evaluation import drawing_time, run
from cv3jax.evaluation.metrics.registry import METRICS, Spec
from cv3jax.sampling import resumable
from data_pipeline.io.errors import InputError


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Return a function that runs the command with cheap metrics, and returns its figures."""
    (tmp_path / "p.txt").write_text("\n".join(LINES))
    monkeypatch.setattr(run, "open_metric", scored.Metrics().open)
    monkeypatch.setitem(METRICS, "mean", Spec("mean", "Mean", "picture"))
    monkeypatch.setitem(METRICS, "far", Spec("far", "Far", "set"))

    def call(*argv):
        given = ["--prompts", str(tmp_path / "p.txt"), "--metrics", "mean", "--draws", "200"]
        evaluate.main([*argv, *given, "--limit", "3", "--json", str(tmp_path / "figures.json")])
        return json.loads((tmp_path / "figures.json").read_text())

    return call


def test_another_model_draws_is_timed_and_scored(command, tmp_path):
    pytest.importorskip("diffusers")
    tiny_pipelines.write_sdxl(tmp_path / "m" / "sdxl")
    flags = ["--model", "sdxl", "--models", str(tmp_path / "m"), "--size", "32", "--steps", "1"]
    found = command(*flags, "--seed", "5", "--time", "--out", str(tmp_path / "o"))
    by = found["drawing"]["made_by"]["drawn_by"]
    assert (by["model"], by["steps"], by["guidance"]) == ("sdxl", [1], [5.0])
    assert found["pictures"] == 3
    assert found["time"]["drawn_by"]["fingerprint"] == by["fingerprint"]
    assert len(found["time"]["seconds"]) == 3
    rows = [json.loads(line) for line in (tmp_path / "o" / "scores.jsonl").open()]
    assert [row["seed"] for row in rows] == [5, 6, 7]
    again = command(*flags, "--seed", "5", "--time", "--out", str(tmp_path / "o"))
    assert again == found  # the time, too, is measured once


def test_the_time_of_a_cascade_is_measured(command, tmp_path, monkeypatch):
    monkeypatch.setattr(resumable, "choose_mesh", lambda text, count: None)
    monkeypatch.setattr(drawing_time, "choose_mesh", lambda text, count: None)
    monkeypatch.setattr(resumable, "load", lambda *args: Painter())
    painter = Painter()
    monkeypatch.setattr(drawing_time, "load", lambda *args: painter)
    checkpoint = str(golden_models.converted("micro"))
    flags = ["--checkpoint", checkpoint, "--size", "32", "--batch", "2"]
    time = command(*flags, "--time", "--out", str(tmp_path / "o"))["time"]
    assert painter.batches == 4  # one of them warm
    assert time["batch"] == 4
    assert time["drawn_by"]["size"] == [32, 32]
    assert time["drawn_by"]["device"]
    assert time["versions"]["jax"]
    assert "time" not in command(*flags, "--out", str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--model sdxl", "--model sdxl: give --models with a directory that has sdxl/"),
        ("--model sdxl --models {p}", "sdxl is not there; get the folder of stabilityai/"),
        ("--model {p}/nope", "give sdxl, stable-cascade, lcm-sdxl, or the folder of a diffusers"),
        ("--model {p}", "model_index.json: No such file"),
        ("--model sdxl --mesh data=1", "--mesh goes with --checkpoint; --model draws without it"),
        ("--model sdxl --expand x", "--expand goes with --checkpoint"),
        ("--model sdxl --attention xla", "--attention goes with --checkpoint"),
        ("--model sdxl --steps 0", "--steps 0: give whole numbers in 1..1000"),
        ("--model sdxl --guidance x", "--guidance x: give numbers in 0..100"),
        ("--model sdxl --batch 0", "--batch 0: must be 1.."),
        ("--model sdxl --seed=-1", "--seed -1: must be 0.."),
        ("--images {p} --time", "--time goes with --checkpoint; the pictures are drawn already"),
        ("--checkpoint scenes --models {p}", "--models goes with --model"),
        ("--model sdxl --checkpoint scenes", "not allowed with argument"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(given, said, command, tmp_path):
    words = given.format(p=tmp_path).split()
    with pytest.raises(InputError) as e:
        command(*words, "--out", str(tmp_path / "o"))
    assert said in str(e.value)
    assert "\n" not in str(e.value)
