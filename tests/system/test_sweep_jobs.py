"""Test the sweeps that recipes ship, several jobs at a time, and the table of what runs reached."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from cv3jax import recipes
from cv3jax.distillation.parsing import parse_recipe
from cv3jax.training import sweeps
from cv3jax.training.evaluations import FIELD
from data_pipeline.io.errors import InputError

SCRIPT = Path(__file__).parents[2] / "launch" / "sweep.py"
WITH_STAND_IN = (
    "import runpy, sys; sys.executable = sys.argv.pop(1); runpy.run_path(sys.argv.pop(1),"
    " run_name='__main__')"
)


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize(
    ("spec", "name", "count"),
    [
        ("base_256", "train", 6),
        ("scenes_base", "train", 6),
        ("sr_1024", "train", 4),
        ("scenes_vae", "train", 4),
        ("distill_base", "distill", 8),
        ("scenes_distill_base", "distill", 8),
    ],
)
def test_the_points_of_shipped_sweeps_are_recipes(script, spec, name, count):
    lines = script["commands"](spec, Path("runs/s"), [])
    assert len({line[line.index("--workdir") + 1] for line in lines}) == len(lines) == count
    found = set()
    for line in lines:
        assert line[:3] == ["cv3jax", name, f"--config={spec}"]
        own = [flag for flag in line if flag.startswith("--config.")]
        found.add(repr(parse_recipe(recipes.load(spec, own))))
    assert len(found) == count


def test_jobs_run_at_once_and_are_tabled(tmp_path):
    """Two points wait for each other, so that one after the other would never end."""
    program = tmp_path / "python"
    program.write_text(
        """#!/bin/bash
for last; do case $before in --workdir) workdir=$last ;; esac; before=$last; done
mkdir -p "$workdir"
touch "$workdir/here"
for i in {1..200}; do
  if [ "$(ls "$workdir"/../*/here | wc -l)" -ge 2 ]; then
    echo "{\\"step\\": 4, \\"loss\\": 0.5, \\"seconds\\": 3}" >"$workdir/metrics.jsonl"
    echo "$CUDA_VISIBLE_DEVICES" >"$workdir/gpus"
    exit 0
  fi
  sleep 0.1
done
exit 1
"""
    )
    program.chmod(0o755)
    command = [sys.executable, "-c", WITH_STAND_IN, program, SCRIPT, "--config=relay_1024"]
    command += ["--workdir", tmp_path / "s", "--run", "--jobs=2"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| 4    | 0.5  | 3       |") == 5
    assert (tmp_path / "s" / "sweep.md").read_text() == done.stdout
    assert len(json.loads((tmp_path / "s" / "sweep.json").read_text())) == 5
    assert (tmp_path / "s" / "sweep.png").stat().st_size > 1000
    assert (tmp_path / "s" / "sweep_1.log").is_file()
    gpus = {(tmp_path / "s" / f"schedule.start={k}" / "gpus").read_text() for k in (200, 400)}
    assert gpus == {"4,5\n", "6,7\n"}
    flags = ["--config=relay_1024", "--workdir", tmp_path / "s", "--results"]
    shown = subprocess.run(
        [sys.executable, SCRIPT, *flags], capture_output=True, text=True, timeout=120
    )
    assert shown.stdout == done.stdout
    odd = subprocess.run(
        [*command[:-1], "--jobs=3"], capture_output=True, text=True, timeout=60, env=env
    )
    assert (odd.returncode, "names 4 GPUs; give a number of jobs" in odd.stderr) == (2, True)


@pytest.mark.parametrize("flags", [["--jobs=0", "--run"], ["--jobs=2"]])
def test_wrong_jobs_are_refused(script, flags):
    with pytest.raises(InputError, match="--jobs"):
        script["main"](["--config=relay_1024", "--workdir", "runs/a", *flags])


def test_the_result_of_a_run_is_its_last_tenth_and_last_evaluation(tmp_path):
    lines = [{"step": 10 * k, "loss": 1.0 / k, "seconds": k} for k in range(1, 21)]
    lines.insert(15, {"step": 150, "heldout_loss": 0.4, FIELD: "a"})
    lines.append({"step": 200, "heldout_loss": 0.3, "fd": 7, FIELD: "a"})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = sweeps.result_of(tmp_path)
    assert found.loss == pytest.approx((1 / 19 + 1 / 20) / 2)
    assert (found.step, found.seconds, found.figures) == (200, 20, {"heldout_loss": 0.3, "fd": 7})
    assert len(found.curve) == 20
    empty = sweeps.result_of(tmp_path / "none")
    assert (empty.step, empty.figures) == (0, {})
    shown = sweeps.table([found, empty]).splitlines()
    assert shown[0].split("|")[1:-1][3].strip() == "heldout_loss"
    assert "not begun" in shown[3]
    assert len({len(line) for line in shown}) == 1
    assert sweeps.to_json([empty])[0]["loss"] is None
    last = tmp_path / "rounds" / "10"
    last.mkdir(parents=True)
    (tmp_path / "rounds" / "9").mkdir()
    for name, loss in (("9", 3.0), ("10", 2.0)):
        place = tmp_path / "rounds" / name / "metrics.jsonl"
        place.write_text(json.dumps({"step": 1, "loss": loss}) + "\n")
    assert sweeps.result_of(tmp_path).loss == 2.0
