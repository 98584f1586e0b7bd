"""Test that a killed distillation resumes bit-exactly, and that eight devices train as one.

The teacher is as small as a UNet can be.
"""

import dataclasses
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import subprocesses
import tiny_runs
from states import assert_equal, leaves, untimed

from cv3jax.cascade.parts import build_model, load_params, unet_init
from cv3jax.checkpoints import cascades, runs
from cv3jax.distillation import build as building
from cv3jax.models.unet import UNet
from cv3jax.training.metrics import read_lines

UPDATES = {4: 3, 2: 10}
SIZES = {**tiny_runs.SIZES, "mid_depth": 0}
FIELDS = (
    "model.mid_depth=0",
    f"distill.rounds={tiny_runs.rounds(UPDATES)}",
    "train.save_every=2",
    "train.preview_every=4",
)
ALONE = ("mesh.data=1", "mesh.fsdp=1", "batch.per_device=8")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Return a cascade with an untrained base and the tiny one's text encoder."""
    place = shutil.copytree(
        tiny_runs.trained("base").workdir / "cascade",
        tmp_path_factory.mktemp("teacher") / "cascade",
    )
    description = cascades.read_cascade(place)[1]
    stage = description.stages["base"]
    stage = dataclasses.replace(stage, model={**stage.model, **SIZES})
    shutil.rmtree(place / "base")
    model = build_model(UNet, stage.model)
    fresh = jax.jit(unet_init(model, stage.text_width))(jax.random.key(0))
    draws = np.random.default_rng(0)  # what begins as zeros would make all of its predictions alike
    cascades.save_part(
        place / "base",
        jax.tree.map(lambda x: x + 0.05 * draws.standard_normal(x.shape, np.float32), fresh),
    )
    cascades.write_cascade(place, description.with_stage("base", stage))
    return place


@pytest.fixture(scope="module")
def whole(teacher, tmp_path_factory):
    """Return both rounds on one device, by a command that was not interrupted."""
    workdir = tmp_path_factory.mktemp("whole") / "w"
    done = subprocesses.run("cv3jax", "distill", *argv(teacher, workdir))
    (workdir.parent / "stderr").write_bytes(done.stderr.encode())
    return workdir


def test_stderr_in_a_file_has_nothing_but_the_command_s_own_lines(whole):
    said = (whole.parent / "stderr").read_bytes().decode()  # read_text() drops \r
    assert "base 2 steps: 100%, " in said
    assert subprocesses.foreign(said) == []


def argv(teacher: Path, workdir: Path) -> list[str]:
    return tiny_runs.distill_argv("base", workdir, *FIELDS, *ALONE, f"cascade={teacher}")


def weights(place: Path) -> dict:
    directory, description = cascades.read_cascade(place)
    return load_params(directory, description, ("base",))[0]["base"]


def stamps(place: Path) -> dict:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in place.rglob("*")
        if path.is_file()
    }


def test_a_round_killed_with_9_resumes_bit_exactly(teacher, whole, tmp_path):
    """The first round is copied from the whole run.

    The second is killed after a checkpoint of its own.
    """
    workdir, command = (
        tmp_path / "w",
        subprocesses.command("cv3jax", "distill", *argv(teacher, tmp_path / "w")),
    )
    first, second = (workdir / "rounds" / name for name in ("1_4_steps", "2_2_steps"))
    shutil.copytree(whole / "rounds" / "1_4_steps", first)
    before = stamps(first)
    process = subprocess.Popen(command, env=subprocesses.environment(), stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not (second / "checkpoints" / "2").is_dir():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait(60)
    assert process.returncode == -signal.SIGKILL, "ended before it was killed"
    assert not (second / "figures.json").exists()
    assert max(runs.steps(second / "checkpoints")) < UPDATES[2]
    subprocesses.run("cv3jax", "distill", *argv(teacher, workdir))
    assert stamps(first) == before
    theirs = whole / "rounds" / "2_2_steps"
    assert_equal(leaves(second, UPDATES[2]), leaves(theirs, UPDATES[2]))
    for place in ("cascade", "rounds/2_2_steps/cascade"):
        jax.tree.map(
            np.testing.assert_array_equal, weights(workdir / place), weights(whole / place)
        )
        assert cascades.read_cascade(workdir / place)[1] == cascades.read_cascade(whole / place)[1]
    assert [line["step"] for line in read_lines(second / "evaluations.jsonl")] == [0, 4, 8, 10]
    for name in ("rounds/2_2_steps/evaluations.jsonl", "quality.json", "quality.md"):
        assert (workdir / name).read_text() == (whole / name).read_text()
    assert untimed(read_lines(second / "metrics.jsonl")) == untimed(
        read_lines(theirs / "metrics.jsonl")
    )
    ours, others = (tiny_runs.read_json(place / "figures.json") for place in (second, theirs))
    assert untimed([ours]) == untimed([others])


@pytest.mark.slow
def test_one_device_and_eight_devices_have_the_same_losses(teacher, whole, tmp_path):
    """One round has a guided teacher, the other a guidance-conditioned one."""
    with tiny_runs.split_small():
        work = building.build_distillation(
            tiny_runs.distill_config("base", *FIELDS, f"cascade={teacher}"), tmp_path
        )
        of = work.teacher
        for plan in work.settings.rounds:
            eight, one = (
                first_losses(work, plan, of),
                read_lines(whole / "rounds" / plan.name / "metrics.jsonl"),
            )
            assert len(set(eight)) == 3
            np.testing.assert_allclose(eight, [line["loss"] for line in one[:3]], rtol=1e-4)
            of = building.Trained(
                whole / "rounds" / plan.name / "cascade", building.student_stage(work, plan)
            )


def first_losses(work: building.Distillation, plan, teacher: building.Trained) -> list[float]:
    """Return the first losses of a round on eight devices."""
    params = building.load_stage(work, teacher)
    assert max(x.size // x.addressable_shards[0].data.size for x in jax.tree.leaves(params)) == 4
    state = building.create_student(work, plan, teacher, params)
    step = building.round_step(work, plan, teacher, building.as_frozen(work, params))
    (data, placed), losses = building.round_data(work, plan), []
    for _ in range(3):
        state, metrics = step(state, placed(next(data)))
        losses.append(float(metrics["loss"]))
    data.close()
    return losses
