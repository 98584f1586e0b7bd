"""Test the memory plan of the GPU session: its programs, its table, and one that is compiled."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from cv3jax.aot import topology


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("gpu_plan")


def test_the_plan_has_the_programs_of_the_session(script):
    keys = list(script.programs(None, 4, 8, "none"))
    assert keys == [
        "forward, 8 × 64²",
        "train, 8 × 64², remat none",
        "base sampler of 50, 4 × 64²",
        "relay sampler of 10, 4 × 128²",
        "base sampler of 4, 4 × 64²",
        "relay sampler of 1, 4 × 128²",
        "decoder, 4096², tiles of 1024",
        "decoder, 4096², whole",
    ]


def test_a_plan_is_resumed_and_says_what_does_not_fit(script, tmp_path, monkeypatch):
    planned = []

    def programs(*args):
        def plan(key, fits):
            planned.append(key)
            size = {"bytes": 200e9, "usable_bytes": 126.9e9, "fits": fits}
            return {**size, "flops": 5e12, "compile_seconds": 3.0}

        return {
            "forward, a": lambda: plan("forward, a", True),
            "train, b": lambda: plan("train, b", False),
        }

    monkeypatch.setattr(script, "programs", programs)
    monkeypatch.setattr(script.topology, "load", lambda name: name)
    path = tmp_path / "plan.json"
    monkeypatch.setattr(sys, "argv", ["gpu_plan.py", "--json", str(path)])
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            script.main()
        assert ended.value.code == "does not fit: train, b"
    assert planned == ["forward, a", "train, b"]
    stored = json.loads(path.read_text())
    assert stored["results"]["train, b"]["revision"] == stored["facts"]["revision"]
    rows = path.with_suffix(".md").read_text().splitlines()
    cells = [cell.strip() for cell in rows[-1].strip("|").split("|")]
    assert cells == ["train", "b", "200.0", "126.9", "no", "5", "3"]


@pytest.mark.gpu_compile
def test_a_train_step_is_planned_for_a_gpu_that_is_not_there(script):
    where = topology.load("h200:1x1x1")
    case = script.Case("train", "tiny", "bfloat16", 4)
    found = script.planned(*script.unet(case, where), where)
    assert found["fits"]
    assert found["usable_bytes"] == int(0.9 * 141e9)
    # parameters, two moments and the EMA in float32, and the gradient
    parameters = 1198692
    assert 4 * 4 * parameters < found["bytes"] < 30 * 4 * parameters
