"""Test that training resumes.

kill -9 loses and changes nothing, other meshes read a checkpoint, and another recipe is refused.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jax
import pytest
import subprocesses
import tiny_runs
import yaml
from states import assert_equal, leaves, named_leaves, untimed

from cv3jax.checkpoints import runs
from cv3jax.training import run as training
from cv3jax.training.build import build
from cv3jax.training.metrics import read_lines
from data_pipeline.io.errors import InputError

STEPS, SAVE_EVERY = 24, 8


def start_and_kill(arguments: list[str], workdir: Path) -> int:
    """Start training, and kill -9 it some steps after its first checkpoint.

    Returns the newest complete checkpoint.
    """
    process = subprocess.Popen(
        subprocesses.command("cv3jax", "train", *arguments),
        env=subprocesses.environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None and not (
            saved(workdir) and read_lines(workdir / "metrics.jsonl")[-1]["step"] > SAVE_EVERY + 1
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait(60)
    assert process.returncode == -signal.SIGKILL, "ended before it was killed"
    return max(saved(workdir))


def saved(workdir: Path) -> list[int]:
    """Return the steps of the complete checkpoints."""
    return [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]


@pytest.mark.slow  # test_distill_resume kills the same loop
def test_kill_9_and_a_second_start_give_the_run_that_was_never_stopped(tmp_path):
    fields = (*tiny_runs.ALONE, f"train.steps={STEPS}", f"train.save_every={SAVE_EVERY}")
    whole, killed = (
        tiny_runs.argv("base", tmp_path / name, *fields) for name in ("whole", "killed")
    )
    subprocesses.run("cv3jax", "train", *whole)
    assert 0 < start_and_kill(killed, tmp_path / "killed") < STEPS
    assert not (tmp_path / "killed" / "cascade").exists()
    subprocesses.run("cv3jax", "train", *killed)
    ours, theirs = (leaves(tmp_path / name, STEPS) for name in ("killed", "whole"))
    assert_equal(ours, theirs)
    assert int(ours["step"]) == STEPS
    assert {name.split("/")[0] for name in ours} == {"step", "key", "params", "ema", "opt_state"}
    curves = [
        untimed(read_lines(tmp_path / name / "metrics.jsonl")) for name in ("killed", "whole")
    ]
    assert curves[0] == curves[1]
    assert [line["step"] for line in curves[0]] == list(range(1, STEPS + 1))
    seconds = [line["seconds"] for line in read_lines(tmp_path / "killed" / "metrics.jsonl")]
    assert seconds == sorted(seconds)
    data = [
        (path / "data")
        for path in (
            tmp_path / "whole" / "checkpoints" / str(STEPS),
            tmp_path / "killed" / "checkpoints" / str(STEPS),
        )
    ]
    files = [{p.relative_to(d): p.read_bytes() for p in d.rglob("metadata")} for d in data]
    assert files[0]
    assert files[0] == files[1]  # the loader stands at the same record


@pytest.mark.parametrize(("data", "fsdp"), [(1, 1), (2, 2), (4, 2)])
def test_a_checkpoint_of_eight_devices_restores_onto_other_meshes(data, fsdp, tmp_path):
    workdir = tiny_runs.trained("vae").workdir
    with tiny_runs.split_small(), tiny_runs.devices(data * fsdp):
        pieces = build(
            tiny_runs.config("vae", f"mesh.data={data}", f"mesh.fsdp={fsdp}", "batch.per_device=1"),
            tmp_path,
        )
    manager = runs.open_manager(workdir / "checkpoints")
    state = runs.restore(manager, tiny_runs.STEPS, pieces.like, pieces.data)
    manager.close()
    largest = max(jax.tree.leaves(state.params), key=lambda x: x.size)
    assert largest.sharding.mesh.shape["fsdp"] == fsdp
    assert largest.addressable_shards[0].data.size == largest.size // fsdp
    assert_equal(named_leaves(state), leaves(workdir, tiny_runs.STEPS))


def test_a_run_of_eight_devices_resumes_on_one_for_more_steps(tmp_path):
    workdir = shutil.copytree(tiny_runs.trained("vae").workdir, tmp_path / "w")
    before = read_lines(workdir / "metrics.jsonl")
    with tiny_runs.devices(1):
        figures = training.run(
            tiny_runs.config("vae", *tiny_runs.ALONE, f"train.steps={tiny_runs.STEPS + 2}"), workdir
        )
    lines = read_lines(workdir / "metrics.jsonl")
    assert lines[: tiny_runs.STEPS] == before
    assert [line["step"] for line in lines[tiny_runs.STEPS :]] == [
        tiny_runs.STEPS + 1,
        tiny_runs.STEPS + 2,
    ]
    assert figures["steps"] == tiny_runs.STEPS + 2
    kept = yaml.safe_load((workdir / "config.yaml").read_text())
    assert kept["train"]["steps"] == tiny_runs.STEPS + 2
    assert sorted(int(path.name) for path in (workdir / "checkpoints").iterdir()) == [
        tiny_runs.STEPS,
        tiny_runs.STEPS + 2,
    ]


def test_a_finished_run_is_exported_again_and_not_trained(tmp_path, monkeypatch):
    workdir = shutil.copytree(tiny_runs.trained("vae").workdir, tmp_path / "w")
    shutil.rmtree(workdir / "cascade")
    tiny_runs.watch(monkeypatch, lambda step: pytest.fail("a finished run was trained"))
    with tiny_runs.split_small():
        figures = training.run(tiny_runs.config("vae", *tiny_runs.MESH["vae"]), workdir)
    assert figures["latent_scale"] == pytest.approx(
        tiny_runs.trained("vae").figures["latent_scale"]
    )
    assert (workdir / "cascade" / "cascade.json").is_file()


@pytest.mark.parametrize(
    "field",
    [
        "optim.lr=0.5",
        "seed=3",
        "batch.size=16",
        "model.channels=16",
        "data.flip=True",
        "optim.kind=adamw",
    ],
)
def test_another_recipe_on_an_existing_workdir_is_refused_by_name(field, tmp_path):
    workdir = tiny_runs.trained("vae").workdir
    stamps = {path: os.stat(path).st_mtime_ns for path in workdir.rglob("*")}
    with pytest.raises(
        InputError, match=f"{workdir} holds a run with other values of {field.split('=')[0]}"
    ):
        training.run(tiny_runs.config("vae", *tiny_runs.MESH["vae"], field), workdir)
    assert {path: os.stat(path).st_mtime_ns for path in workdir.rglob("*")} == stamps
