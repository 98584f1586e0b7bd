"""Test that processes resume from the disks of their machines, and from each other's."""

import re
import shutil
import signal

import many_runs
import pytest
from states import assert_equal, leaves

from cv3jax.checkpoints import runs

STEPS, SAVE, AT = 9, 4, 8


@pytest.fixture
def killed(tmp_path, request):
    """Return (workdir, disks) of two processes that were killed after checkpoints on their disks.

    Those of step AT - 2 are complete. Process 0 has lost its disk, or what it has there now takes
    no file.
    """
    fsdp, full = request.param
    workdir, disks = tmp_path / "run", tmp_path / "disks"
    more = {"save": SAVE, "local": disks, "fsdp": fsdp}
    ended = many_runs.start(workdir, STEPS, what="SIGKILL", who=many_runs.ALL, at=AT, **more)
    assert [code for code, _ in ended] == [-signal.SIGKILL] * 2, ended
    assert runs.steps(workdir / "checkpoints") == [SAVE]
    shutil.rmtree(disks / "0")
    if full:
        (disks / "0").write_text("")
    return workdir, many_runs.start(workdir, STEPS, **more)


@pytest.mark.parametrize("killed", [(4, False)], indirect=True)
def test_a_machine_that_lost_its_disk_gets_the_copy_of_its_replica(killed, tmp_path):
    workdir, ended = killed
    assert [code for code, _ in ended] == [0, 0], ended
    said = re.search(r"^cv3jax: resuming from step (\d), which is on", ended[0][1], re.MULTILINE)
    assert int(said[1]) in (AT - 2, AT - 1)
    ended = many_runs.start(tmp_path / "whole", STEPS, save=SAVE)
    assert [code for code, _ in ended] == [0, 0], ended
    assert_equal(leaves(workdir, STEPS), leaves(tmp_path / "whole", STEPS))


@pytest.mark.slow  # tests/training/test_local_saves.py has the copy that fails
@pytest.mark.parametrize("killed", [(4, True)], indirect=True)
def test_where_a_disk_cannot_take_its_copy_all_take_the_workdirs_checkpoint(killed):
    _, ended = killed
    assert [code for code, _ in ended] == [0, 0], ended
    assert re.search(
        rf"^cv3jax: local checkpoints: that of step [67] could not be copied \(process 0: .*\);"
        rf" step {SAVE} is taken instead$",
        ended[0][1],
        re.MULTILINE,
    )
    assert "resuming from step" not in ended[0][1]


@pytest.mark.slow  # tests/training/test_local_saves.py has what they agree on
@pytest.mark.parametrize("killed", [(8, False)], indirect=True)
def test_where_shards_are_lost_the_workdirs_checkpoint_is_taken_and_that_is_said(killed):
    _, ended = killed
    assert [code for code, _ in ended] == [0, 0], ended
    assert re.search(
        rf"^cv3jax: local checkpoints: that of step [67] is not whole on the disks that are here;"
        rf" step {SAVE} is taken instead$",
        ended[0][1],
        re.MULTILINE,
    )
    assert "resuming from step" not in ended[0][1]
