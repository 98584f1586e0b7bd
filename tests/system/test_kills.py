"""Test kill -9 at 21 random points of training autoencoder, base and relay.

Each run must end bit for bit as one that was not killed.
"""

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import subprocesses
import tiny_runs
from states import assert_equal, leaves, untimed

from cv3jax.cascade.parts import load_params
from cv3jax.checkpoints import cascades, runs
from cv3jax.training.metrics import read_lines

STEPS, SAVE_EVERY = 48, 6
FIELDS = (
    *tiny_runs.ALONE,
    f"train.steps={STEPS}",
    f"train.save_every={SAVE_EVERY}",
    "train.log_every=4",
    "train.keep=2",
)
# the phases of the seven kills of a stage
PHASES = ("compile", "step", "save", "resume", "step", "save", "export")
PATIENCE = 400.0  # seconds until a phase has to come


def start(arguments: list[str], log: Path) -> subprocess.Popen:
    with log.open("a") as file:
        return subprocess.Popen(
            subprocesses.command("cv3jax", "train", *arguments),
            env=subprocesses.environment(),
            stderr=file,
        )


def last_line(workdir: Path) -> int:
    return max((line["step"] for line in read_lines(workdir / "metrics.jsonl")), default=0)


def moment(
    phase: str, workdir: Path, at: int, rng: random.Random
) -> tuple[Callable[[], bool], float]:
    """Return (a function that returns whether `phase` has begun, seconds from then to the kill).

    The run starts at step `at`.
    """
    metrics = workdir / "metrics.jsonl"
    before = metrics.stat().st_ino if metrics.exists() else None

    def stepping() -> bool:
        # written anew when the steps begin
        return metrics.exists() and metrics.stat().st_ino != before

    if phase == "compile":
        return stepping, rng.uniform(0, 5)
    if phase == "resume":
        return lambda: True, rng.uniform(1, 15)
    # past so many checkpoints of its own, but not past the last: the last kill is for the export
    after = min(at + SAVE_EVERY * rng.randint(phase == "step", 2), STEPS - 2 * SAVE_EVERY)

    def far() -> bool:
        return stepping() and max(runs.steps(workdir / "checkpoints"), default=0) >= after

    if phase == "step":
        line = after + rng.randint(1, SAVE_EVERY - 1)
        return lambda: far() and last_line(workdir) >= line, rng.uniform(0, 0.2)
    if phase == "save":
        return lambda: far() and any((workdir / "checkpoints").glob("*-tmp")), rng.uniform(0, 0.3)
    return lambda: STEPS in runs.steps(workdir / "checkpoints"), rng.uniform(0, 1.5)


def killed(phase: str, arguments: list[str], workdir: Path, rng: random.Random) -> dict:
    """Start or resume the run, kill it in `phase`, and return where that was."""
    at = max(runs.steps(workdir / "checkpoints"), default=0)
    come, delay = moment(phase, workdir, at, rng)
    process = start(arguments, workdir.with_suffix(".log"))
    try:
        limit = time.monotonic() + PATIENCE
        while process.poll() is None and not come():
            assert time.monotonic() < limit, f"no {phase}"
            time.sleep(0.002)
        time.sleep(delay)
    finally:
        process.kill()
        process.wait(60)
    unfinished = [path.name.split(".")[0] for path in (workdir / "checkpoints").glob("*-tmp")]
    return {
        "phase": phase,
        "from": at,
        "line": last_line(workdir),
        "saved": runs.steps(workdir / "checkpoints"),
        "saving": unfinished,
        "alive": process.returncode == -9,
    }


def position(workdir: Path) -> dict[str, bytes]:
    """Return the loader's position in the last checkpoint."""
    data = workdir / "checkpoints" / str(STEPS) / "data"
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("metadata")}


def curve(workdir: Path) -> list[dict]:
    return untimed(read_lines(workdir / "metrics.jsonl"))


def exported(workdir: Path, stage: str) -> list[np.ndarray]:
    directory, description = cascades.read_cascade(workdir)
    return jax.tree.leaves(load_params(directory, description, (stage,))[0])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vae", "base", "relay"])
def test_a_run_killed_seven_times_is_the_run_that_was_never_stopped(stage, tmp_path, capsys):
    rng = random.Random(f"kills {stage}")
    arguments = {
        name: tiny_runs.argv(stage, tmp_path / name, *FIELDS) for name in ("killed", "whole")
    }
    workdir = tmp_path / "killed"
    points = []
    for phase in PHASES:
        points.append(killed(phase, arguments["killed"], workdir, rng))
        with capsys.disabled():
            print(f"\n{stage}: {points[-1]}", flush=True)
        assert points[-1]["alive"], workdir.with_suffix(".log").read_text()[-2000:]
        for step in points[-1]["saved"][-2:]:  # an older one may have been about to be removed
            runs.verify(workdir / "checkpoints", step)
    starts = [point["from"] for point in points]
    assert starts == sorted(starts)  # nothing that was saved was lost
    assert len(set(starts)) > 2  # and training did progress between the kills
    for name in ("killed", "whole"):
        subprocesses.run("cv3jax", "train", *arguments[name])
    assert_equal(leaves(workdir, STEPS), leaves(tmp_path / "whole", STEPS))
    assert position(workdir)
    assert position(workdir) == position(tmp_path / "whole")
    assert curve(workdir) == curve(tmp_path / "whole")
    assert [line["step"] for line in curve(workdir)] == [
        s for s in range(1, STEPS + 1) if s % 4 == 0 or s % SAVE_EVERY == 0
    ]
    for ours, theirs in zip(
        exported(workdir, stage), exported(tmp_path / "whole", stage), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert not list((workdir / "checkpoints").glob("*-tmp"))
    assert not list(workdir.glob(".lock"))
