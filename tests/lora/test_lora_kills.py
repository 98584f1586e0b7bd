"""Test that kill -9 loses and changes nothing of a run that trains adapters."""

import signal
import subprocess
import time
from pathlib import Path

import lora_runs
import pytest
import subprocesses
import tiny_runs
from safetensors.numpy import load_file
from states import assert_equal, leaves, untimed

from cv3jax.checkpoints import runs
from cv3jax.training.metrics import read_lines

STEPS, SAVE_EVERY = 24, 8
FIELDS = (
    *tiny_runs.ALONE,
    f"train.steps={STEPS}",
    f"train.save_every={SAVE_EVERY}",
    "lora.targets=attention",
)


def argv(workdir: Path) -> list[str]:
    """Return the arguments of `cv3jax finetune`, by its own flags."""
    base, pictures = tiny_runs.trained("base").workdir, tiny_runs.scenes()
    apart = ("--config.cascade=", "--config.data.path=")
    given = [x for x in lora_runs.argv(workdir, *FIELDS) if not x.startswith(apart)]
    return [*given, "--checkpoint", str(base), "--pictures", str(pictures)]


def kill(workdir: Path) -> int:
    """Start a run, and kill -9 it after its first checkpoint. Returns the newest checkpoint."""
    process = subprocess.Popen(
        subprocesses.command("cv3jax", "finetune", *argv(workdir)),
        env=subprocesses.environment(),
        stderr=subprocess.DEVNULL,
    )
    checkpoints, limit = workdir / "checkpoints", time.monotonic() + 400
    try:
        while process.poll() is None and not (
            runs.steps(checkpoints)
            and read_lines(workdir / "metrics.jsonl")[-1]["step"] > SAVE_EVERY + 1
        ):
            assert time.monotonic() < limit
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait(60)
    assert process.returncode == -signal.SIGKILL, "ended before it was killed"
    return max(runs.steps(checkpoints))


@pytest.mark.slow  # test_lora_stage has a run in two sittings
def test_a_killed_run_is_the_run_that_was_never_stopped(tmp_path):
    places = [tmp_path / "killed", tmp_path / "whole"]
    assert 0 < kill(places[0]) < STEPS
    assert (places[0] / "lora" / "adapter.safetensors").exists()
    for place in places:
        subprocesses.run("cv3jax", "finetune", *argv(place))
    assert_equal(*(leaves(place, STEPS) for place in places))
    assert_equal(*(load_file(place / "lora" / "adapter.safetensors") for place in places))
    lines = [untimed(read_lines(place / "metrics.jsonl")) for place in places]
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0]] == list(range(1, STEPS + 1))
