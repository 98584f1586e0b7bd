"""Many processes are one run: the same numbers as one, all end when one dies, all stop after the same step, any number goes on."""

import re
import signal

import jax
import many_runs
import numpy as np
import pytest
from states import assert_equal, leaves, named_leaves

from cv3jax import checkpoint
from cv3jax.metrics import read_lines
from cv3jax.sharding import make_mesh

STEPS = 20


def mesh(count: int):
    return make_mesh(data=max(count // 4, 1), fsdp=min(count, 4), devices=jax.devices()[:count])


def losses(workdir) -> list[float]:
    return [line["loss"] for line in read_lines(workdir / "metrics.jsonl")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process with eight devices."""
    workdir = tmp_path_factory.mktemp("alone")
    return workdir, named_leaves(many_runs.run(workdir, STEPS, mesh(8)))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The run of two processes with four devices each."""
    workdir = tmp_path_factory.mktemp("two")
    ended = many_runs.start(workdir, STEPS)
    assert [code for code, _ in ended] == [0, 0], ended
    return workdir


def test_one_device_and_eight_and_two_processes_train_the_same(alone, two, tmp_path):
    one = named_leaves(many_runs.run(tmp_path, STEPS, mesh(1), accumulate=4))
    for theirs, curve in ((one, losses(tmp_path)), (leaves(two, STEPS), losses(two))):
        np.testing.assert_allclose(curve, losses(alone[0]), rtol=1e-5)
        for name, value in alone[1].items():
            if not name.startswith("opt_state"):
                np.testing.assert_allclose(theirs[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert losses(two)[-1] < 0.7 * losses(two)[0]


@pytest.mark.parametrize("devices", [8, 4, 1])
def test_what_two_processes_saved_one_goes_on_with(devices, alone, two):
    _, like, data, place, step = many_runs.pieces(mesh(devices))
    manager = checkpoint.open_manager(two / "checkpoints")
    state = checkpoint.restore(manager, STEPS, like, data)
    manager.close()
    assert_equal(named_leaves(state), leaves(two, STEPS))
    assert data.get_state() == {"next_index": STEPS}
