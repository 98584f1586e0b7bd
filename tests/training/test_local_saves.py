"""Test checkpoints on a machine's own disk: when one is taken, and when it must not be."""

import dataclasses
import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from faults import curve, same
from toy_runs import CADENCE, toy

from cv3jax.checkpoints import local, peer_copies, sittings
from cv3jax.distributed import processes
from cv3jax.training import local_saves
from cv3jax.training import run as training
from cv3jax.training.train_settings import Local
from data_pipeline.io.errors import InputError

STEPS, SAVE, AT = 12, 4, 8


class Killed(Exception):
    """Ends a run where a kill would."""


@pytest.fixture
def cadence(tmp_path):
    """Return a cadence with checkpoints in the workdir every 4 steps, and on the disk every one."""
    disk = Local(1, tmp_path / "disk")
    return dataclasses.replace(CADENCE, steps=STEPS, save=SAVE, log=3, local=disk)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return (state, metrics) of a run without local checkpoints, and without an interruption."""
    workdir = tmp_path_factory.mktemp("whole")
    plain = dataclasses.replace(CADENCE, steps=STEPS, save=SAVE, log=3)
    return toy(workdir, cadence=plain), curve(workdir)


def killed(workdir, cadence, at=AT, **more):
    def before(step):
        if step == at:
            raise Killed

    with pytest.raises(Killed):
        toy(workdir, cadence=cadence, before=before, **more)


def resumed(workdir, cadence, **more) -> tuple[list[int], object]:
    """Return the steps that were done, and the last state."""
    seen = []
    return seen, toy(workdir, cadence=cadence, before=seen.append, **more)


def disk_of(cadence):
    (folder,) = cadence.local.folder.glob("cv3jax-*")
    return folder


def steps_on(cadence) -> list[int]:
    return sorted(int(place.name.partition("-")[0]) for place in disk_of(cadence).glob("[0-9]*"))


def test_a_run_resumes_from_its_disk_bit_for_bit(tmp_path, cadence, whole, capsys):
    killed(tmp_path / "w", cadence)
    assert steps_on(cadence) == [AT - 2, AT - 1]  # the newest two
    seen, state = resumed(tmp_path / "w", cadence)
    assert seen == list(range(AT, STEPS + 1))
    said = f"cv3jax: resuming from step {AT - 1}, which is on this machine's own disk"
    assert said in capsys.readouterr().err
    same(state, whole[0])
    assert curve(tmp_path / "w") == whole[1]


def test_a_run_without_any_checkpoint_in_its_workdir_resumes_too(tmp_path, cadence, whole):
    killed(tmp_path / "w", cadence, at=3)
    seen, state = resumed(tmp_path / "w", cadence)
    assert seen[0] == 3
    same(state, whole[0])


@pytest.mark.parametrize("damage", ["a byte", "cut off", "no index", "no disk"])
def test_a_damaged_copy_is_not_taken(damage, tmp_path, cadence, whole):
    killed(tmp_path / "w", cadence)
    newest = max(disk_of(cadence).glob("[0-9]*"))
    data = newest / local.SHARDS
    if damage == "a byte":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "cut off":
        os.truncate(data, data.stat().st_size - 1)
    elif damage == "no index":
        (newest / local.INDEX).unlink()
    else:
        shutil.rmtree(cadence.local.folder)
    seen, state = resumed(tmp_path / "w", cadence)
    assert seen[0] == (SAVE + 1 if damage == "no disk" else AT - 1)
    same(state, whole[0])


def test_a_disk_that_was_away_while_the_run_went_on_is_not_believed(tmp_path, cadence):
    killed(tmp_path / "w", cadence)
    away = cadence.local.folder.rename(tmp_path / "away")
    killed(tmp_path / "w", cadence, at=6)  # from step 4 on, with another disk
    shutil.rmtree(cadence.local.folder)
    away.rename(cadence.local.folder)  # with step 7 of the first start
    seen, _ = resumed(tmp_path / "w", cadence)
    assert seen[0] == SAVE + 1
    assert steps_on(cadence)[0] > SAVE  # what was not believed is gone


def test_another_run_in_the_same_directories_does_not_resume_from_it(tmp_path, cadence):
    killed(tmp_path / "w", cadence)
    shutil.rmtree(tmp_path / "w")
    seen, _ = resumed(tmp_path / "w", cadence)
    assert seen[0] == 1


def test_a_full_disk_is_told_and_the_run_continues(tmp_path, cadence, whole, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(local, "write", full)
    same(toy(tmp_path / "w", cadence=cadence), whole[0])
    said = capsys.readouterr().err
    assert f"could not be written ([Errno 28] {os.strerror(errno.ENOSPC)}); the run" in said


def test_a_checkpoint_of_other_settings_is_not_taken(tmp_path):
    kept = {"config": {"optim": {"lr": 1.0}, "train": {"keep": 1}}, "inputs": {"data.path": "a"}}
    alike = {"config": {"optim": {"lr": 1.0}, "train": {"keep": 2}}, "inputs": {"data.path": "a"}}
    assert local_saves._differing(kept, alike) == []
    other = {"config": {**alike["config"], "optim": {"lr": 2.0}}, "inputs": {"data.path": "b"}}
    assert local_saves._differing(kept, other) == ["optim.lr", "content of data.path"]


def test_a_resumption_from_an_older_step_leaves_newer_copies(tmp_path):
    known = {"run": "r", "starts": [{"name": "a", "step": 0}, {"name": "b", "step": 4}]}
    assert sittings.belongs(known, "a", 4)
    assert not sittings.belongs(known, "a", 5)
    assert sittings.belongs(known, "b", 5)
    assert not sittings.belongs(known, "c", 1)


@pytest.mark.parametrize(
    ("theirs", "step"),
    [
        (["x", [[5, "x"], [6, "x"]]], 6),  # a replica has what we lack
        (["y", [[5, "y"], [6, "y"]]], 5),  # ours of step 6 are nowhere
        (["y", []], None),
    ],
)
def test_the_step_that_is_taken_is_the_newest_that_all_can_have(
    theirs, step, monkeypatch, tmp_path
):
    monkeypatch.setattr(processes, "gather", lambda name, value: [value, theirs])
    agreed = peer_copies.agree([peer_copies.Copy(5, "x", tmp_path)], "x")
    newest = 6 if theirs[1] else 5
    assert (agreed.step, agreed.newest) == (step, newest)
    if step == 6:
        assert agreed.holders == {"x": 1}


def test_arrays_of_all_types_and_shardings_come_back(tmp_path):
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = {
        "half": jax.device_put(jnp.array([-0.0, jnp.nan, 1.5, 3e38], jnp.bfloat16), spread),
        "step": jax.device_put(jnp.int32(7), everywhere),
        "key": jax.device_put(jax.random.key(3), everywhere),
        "none": jax.device_put(jnp.zeros((0, 3)), everywhere),
    }
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    taken = local.taken(state)
    assert list(taken) == local.shards_of(like)
    local.write(tmp_path / "1-a-0", taken, {"step": 1})
    assert local.intact(tmp_path / "1-a-0")
    back = local.load(tmp_path / "1-a-0", like)
    for name, value in state.items():
        assert back[name].sharding == value.sharding
        one, other = (np.asarray(local.plain(x)) for x in (value, back[name]))
        assert one.tobytes() == other.tobytes()
        assert back[name].dtype == value.dtype


def test_both_fields_are_needed(tmp_path):
    fields = ("train.local_every=2",)
    with pytest.raises(InputError, match=r"config\.train\.local_every = 2: must be 0 without"):
        tiny_runs.config("vae", *fields)
    (tmp_path / "file").write_text("")
    settings = tiny_runs.config("vae", *fields, f"train.local_dir={tmp_path / 'file'}")
    with pytest.raises(InputError, match=r"config\.train\.local_dir .*file is a file"):
        training.run(settings, tmp_path / "w")
    assert not (tmp_path / "w").exists()
