"""Test checkpoints on a machine's own disk: when one is taken, and when it must not be."""

import dataclasses
import errno
import os
import shutil
from pathlib import Path

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
from cv3jax.training.changes import FREE, RESUMABLE
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
    seen = []

    def before(step):
        seen.append(step)
        if step == SAVE + 2:
            raise Killed

    with pytest.raises(Killed):
        toy(tmp_path / "w", cadence=cadence, before=before)
    assert seen[0] == SAVE + 1
    assert steps_on(cadence) == [SAVE + 1]  # what was not believed is gone


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


def kept_of(lr=1.0, keep=1, path="here", content="a", steps=10) -> dict:
    config = {"optim": {"lr": lr}, "train": {"keep": keep}, "sample": {"steps": steps}}
    return {"config": {**config, "data": {"path": path}}, "inputs": {"data.path": content}}


@pytest.mark.parametrize(
    ("now", "resumable", "differing"),
    [
        ({"keep": 2}, RESUMABLE, []),
        ({"path": "there"}, RESUMABLE, []),  # with the same content
        ({"steps": 20}, RESUMABLE, []),
        ({"steps": 20}, FREE, ["sample.steps"]),  # of a distillation, which trains by it
        ({"lr": 2.0}, RESUMABLE, ["optim.lr"]),
        ({"content": "b"}, RESUMABLE, ["data.path (the content of here has changed)"]),
    ],
)
def test_a_checkpoint_is_of_the_run_where_it_could_be_resumed_without_a_flag(
    now, resumable, differing
):
    assert local_saves._differing(kept_of(), kept_of(**now), resumable) == differing


def test_a_checkpoint_past_the_last_step_is_not_taken(tmp_path, cadence, capsys):
    killed(tmp_path / "w", cadence)
    seen, state = resumed(tmp_path / "w", dataclasses.replace(cadence, steps=SAVE + 1))
    assert seen == [SAVE + 1]
    assert int(state.step) == SAVE + 1
    past = f"that of step {AT - 1} is past config.train.steps = {SAVE + 1}"
    assert f"{past}; step {SAVE} is taken instead" in capsys.readouterr().err


def test_when_the_last_checkpoint_is_in_the_workdir_those_on_the_disk_are_removed(
    tmp_path, cadence
):
    other = cadence.local.folder / "cv3jax-other"
    other.mkdir(parents=True)
    killed(tmp_path / "w", cadence)
    assert len(list(cadence.local.folder.iterdir())) == 2
    resumed(tmp_path / "w", cadence)
    assert list(cadence.local.folder.iterdir()) == [other]


def test_a_result_that_is_on_the_disk_alone_stays_there(tmp_path, cadence):
    killed(tmp_path / "w", cadence)
    seen, state = resumed(tmp_path / "w", dataclasses.replace(cadence, steps=AT - 1))
    assert (seen, int(state.step)) == ([], AT - 1)
    assert AT - 1 in steps_on(cadence)


def test_a_run_that_writes_none_any_more_removes_those_that_it_has(tmp_path, cadence):
    killed(tmp_path / "w", cadence)
    none = tiny_runs.config("vae", f"train.local_dir={cadence.local.folder}").train.local
    assert none.every == 0
    seen, _ = resumed(tmp_path / "w", dataclasses.replace(cadence, local=none))
    assert seen[0] == SAVE + 1
    assert list(cadence.local.folder.iterdir()) == []


def test_a_copy_onto_a_full_disk_ends_in_an_error_that_is_kept(tmp_path):
    source, disk = tmp_path / "source", peer_copies._Disk()
    source.write_bytes(bytes(range(256)) * 99)
    peer_copies._send(source, tmp_path / "target", disk)
    assert disk.error is None
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    peer_copies._send(source, Path("/dev/full"), disk)
    assert disk.error.errno == errno.ENOSPC


def test_a_copy_that_no_disk_takes_is_told_to_all(tmp_path):
    local.write(tmp_path / "5-a-0", local.taken({"w": jnp.ones(3)}), {"step": 5})
    agreed = peer_copies.Agreed(5, 5, ["x"], {"x": 0})
    mine = [peer_copies.Copy(5, "x", tmp_path / "5-a-0")]
    place, problem = peer_copies.fetch(agreed, mine, None, tmp_path)
    assert (local.intact(place), problem) == (True, None)
    (tmp_path / "file").write_text("")
    place, problem = peer_copies.fetch(agreed, mine, None, tmp_path / "file")
    assert place is None
    assert problem.startswith("process 0: [Errno 20] Not a directory")


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
