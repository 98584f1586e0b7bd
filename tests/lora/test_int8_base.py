"""Test adapters on a base that is held in int8: its memory, its losses, and what is written."""

import importlib.util

import jax
import jax.numpy as jnp
import lora_runs
import numpy as np
import pytest
import tiny_runs
from safetensors.numpy import load_file

from cv3jax.lora.held import in_int8
from cv3jax.lora.stage import LoraStage
from cv3jax.models import adapters, int8
from data_pipeline.io.errors import InputError

pytest.importorskip("qwix")
INT8 = "lora.base_dtype=int8"


def steps_of(stage):
    """Return (the state after some steps, the losses)."""
    stage.compile()
    state, losses = stage.create(), []
    for _ in range(lora_runs.STEPS):
        state, metrics = stage.step(state, stage.place(next(stage.data)))
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return (the stage on one device with a base in int8, its last state, its losses)."""
    made = lora_runs.alone(tmp_path_factory.mktemp("alone"), INT8)
    return made, *steps_of(made)


def matrices(stage):
    """Return path → matrix of the stage's base."""
    return adapters.kernels(stage._aside["base"])


def size(kernels):
    """Return how many bytes the matrices of blocks have."""
    inside = [x for path, x in kernels.items() if in_int8((*path.split("/"), "kernel"))]
    return sum(x.nbytes for x in jax.tree.leaves(inside))


def test_the_losses_are_those_of_the_base_to_a_hundredth(alone, tmp_path):
    exact = lora_runs.alone(tmp_path)
    state, losses = steps_of(exact)
    np.testing.assert_allclose(alone[2], losses, rtol=0.01)
    assert alone[2] != losses
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), one) for one in (state, alone[1])]
    assert shapes[0] == shapes[1]


def test_the_blocks_have_half_the_bytes_of_bfloat16(alone, tmp_path):
    half = lora_runs.alone(tmp_path, "model.dtype=bfloat16")
    scales = sum(x.scale.nbytes for x in matrices(alone[0]).values() if isinstance(x, int8.Int8))
    assert size(matrices(alone[0])) - scales == size(matrices(half)) / 2
    for path, x in matrices(alone[0]).items():
        exact = np.asarray(matrices(half)[path], np.float32)
        if isinstance(x, int8.Int8):
            assert in_int8((*path.split("/"), "kernel"))
            step = np.asarray(x.scale) + 2.0**-8 * np.abs(exact)
            assert (np.abs(exact - int8.plain(x)) <= step).all()
        else:
            assert x.dtype == jnp.float32


def test_eight_devices_train_what_one_does(alone, tmp_path):
    with tiny_runs.split_small():
        made = LoraStage(lora_runs.settings(*lora_runs.EIGHT, INT8), tmp_path)
        held = [x.values for x in matrices(made).values() if isinstance(x, int8.Int8)]
        assert any("fsdp" in str(x.sharding.spec) for x in held)
        assert {x.dtype for x in held} == {jnp.dtype("int8")}
        _, losses = steps_of(made)
    np.testing.assert_allclose(losses, alone[2], rtol=1e-4)


def test_a_run_draws_and_writes_as_with_every_base(tmp_path):
    lora_runs.run_alone(tmp_path / "w", INT8, "lora.dora=True", "train.preview_every=2")
    assert len(list((tmp_path / "w" / "previews").glob("step_*.png"))) == 3  # and before
    arrays = load_file(tmp_path / "w" / "lora" / "adapter.safetensors")
    assert {x.dtype for x in arrays.values()} == {np.dtype("float32")}


def test_the_library_and_the_type_are_asked_for(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"lora\.base_dtype = int4: must be one of computed, int8"):
        lora_runs.settings("lora.base_dtype=int4")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "qwix" else find(name)
    )
    with pytest.raises(InputError, match=r"int8 needs qwix, .* pip install 'cv3jax\[int8\]'"):
        lora_runs.alone(tmp_path, INT8)
