"""Test the benchmark of a fine-tune's memory: what it compiles, resumes, adds up and fails on."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from cv3jax import recipes
from cv3jax.aot.topology import parse
from cv3jax.distillation.parsing import parse_recipe

GB = 10**9


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("finetune_memory")


def figures(fits=True):
    return {
        "peak_bytes_per_chip": 8 * GB,
        "beside_bytes_per_chip": 10 * GB,
        "total_bytes_per_chip": 18 * GB,
        "argument_bytes_per_chip": 6 * GB,
        "usable_bytes": 21 * GB,
        "fits": fits,
        "flops_per_image": 1e12,
        "compile_seconds": 3.0,
    }


def test_the_runs_are_recipes_and_the_cells_are_topologies(script):
    for recipe, *fields in script.RUNS.values():
        parse_recipe(recipes.load(recipe, [*fields, *script.PREVIEWS]))
    for run, topology, steps in script.CELLS:
        assert run in script.RUNS
        assert set(steps) <= set(script.STEPS)
        parse(topology)


def test_previews_are_four_pictures(script, monkeypatch):
    asked = []
    monkeypatch.setattr(script.compile_time, "compiled", lambda *given: asked.append(given))
    for step in script.STEPS:
        script.compiled("whole", "h100:1x1x1", step)
    train, _, sample = asked
    assert train[:3] == ("base_512", "train", "h100:1x1x1")
    assert sample[-1] == "--config.batch.per_device=4"
    assert "--config.batch.per_device=4" not in train


def test_what_is_there_is_kept_and_what_does_not_fit_fails(script, monkeypatch, tmp_path, capsys):
    kept = {"adapter a10g:1x1x1 train": {**figures(), "date": "then", "revision": "abc"}}
    (tmp_path / "finetune_memory.json").write_text(json.dumps({"results": kept}))
    asked = []

    def compiled(run, topology, step):
        asked.append((run, topology, step))
        return figures(fits=step != "sample" and topology != "rtx4090:1x1x1")

    monkeypatch.setattr(script, "compiled", compiled)
    flags = ["--out", str(tmp_path), "--runs", "adapter", "--topologies", "a10g:1x1x1"]
    monkeypatch.setattr(sys, "argv", ["finetune_memory.py", *flags])
    script.main()
    assert asked == [("adapter", "a10g:1x1x1", step) for step in ("encode", "sample")]
    assert "a preview during the run adapter on a10g:1x1x1: 18.0 GB" in capsys.readouterr().out
    stored = json.loads((tmp_path / "finetune_memory.json").read_text())
    assert stored["results"]["adapter a10g:1x1x1 train"]["revision"] == "abc"
    assert stored["facts"]["date"] in (tmp_path / "finetune_memory.md").read_text()
    sys.argv[-1] = "rtx4090:1x1x1"
    with pytest.raises(SystemExit, match=r"not fit: adapter rtx4090:1x1x1 train, .* encode$"):
        script.main()
