"""Test a preemption as a scheduler makes it: SIGTERM, a checkpoint, exit code 0, the same command.

The second start compiles nothing, and ends with the numbers of a run that nobody stopped.
"""

import signal
import subprocess
import sys
import time

import tiny_runs
from states import assert_equal, leaves
from subprocesses import environment

from cv3jax.checkpoints import manifest, runs
from cv3jax.training.metrics import read_lines
from data_pipeline.io.bounded_json import load_json

STEPS = 40  # more than are done before the signal comes
# runs the command, and writes how many programs JAX asked its cache for, and how many it had
COUNTED = """
import json, sys
import jax
from cv3jax.commands.train import main
from cv3jax.cli import run_command
counts = {}
def count(event, **_):
    counts[event.rpartition("/")[2]] = counts.get(event.rpartition("/")[2], 0) + 1
jax.monitoring.register_event_listener(count)
try:
    run_command(main, sys.argv[2:])
finally:
    open(sys.argv[1], "w").write(json.dumps(counts))
"""


def test_a_preempted_run_compiles_nothing_and_ends_as_if_it_had_not_been_stopped(tmp_path):
    env = environment(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "xla"), PYTHONUNBUFFERED="1")
    del env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]  # the commands' own is tested

    def start(name: str, workdir: str) -> subprocess.Popen:
        fields = (*tiny_runs.ALONE, f"train.steps={STEPS}", "train.save_every=0")
        argv = tiny_runs.argv("vae", tmp_path / workdir, *fields, "train.preview_every=0")
        return subprocess.Popen(
            [sys.executable, "-c", COUNTED, str(tmp_path / f"{name}.json"), *argv],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(process: subprocess.Popen) -> str:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
        return said

    def counts(name: str) -> tuple[int, int]:
        """Return how many programs were needed, and how many of them were in the cache."""
        found = load_json(tmp_path / f"{name}.json")
        return found["compile_requests_use_cache"], found.get("cache_hits", 0)

    ended(start("whole", "whole"))
    needed, had = counts("whole")
    assert had < needed > 2

    first = start("first", "run")
    while not read_lines(tmp_path / "run" / "metrics.jsonl"):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    said = ended(first)
    (step,) = runs.steps(tmp_path / "run" / "checkpoints")
    assert step < STEPS
    assert f"cv3jax: SIGTERM: stopped after step {step}, saved in" in said
    assert manifest.damage(tmp_path / "run" / "checkpoints" / str(step)) is None

    ended(start("again", "run"))
    needed, had = counts("again")
    assert had == needed > 2
    assert_equal(*(leaves(tmp_path / name, STEPS) for name in ("run", "whole")))
