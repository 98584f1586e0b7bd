"""Test training: compilations, transfers, equal losses on any mesh, inputs and outputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_runs
import yaml
from PIL import Image
from states import named_leaves
from toy_runs import numbers, squares, toy

from cv3jax.cascade.parts import load_params
from cv3jax.checkpoints import cascades, runs
from cv3jax.optim import optimizers
from cv3jax.training import state as states
from cv3jax.training.build import build
from cv3jax.training.metrics import read_lines
from cv3jax.training.train_step import (
    create_state,
    image_keys,
    make_train_step,
    microbatches,
)

STAGES = ("vae", "base", "relay")


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_compiles_once(stage):
    first, *later = tiny_runs.trained(stage).compiled
    assert first.count("jit(train_step)") == 1
    # the first checkpoint has orbax cut replicated arrays, so that every device writes its share;
    # from then on nothing at all
    assert set(later[-1][len(first) :]) <= {"jit(slice)"}
    assert later[2] == later[-1]


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_leaves_curves_a_preview_checkpoints_and_a_cascade(stage):
    run = tiny_runs.trained(stage)
    lines = read_lines(run.workdir / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert sorted(path.name for path in (run.workdir / "previews").glob("*")) == (
        ["contact_sheet.png", "rows", "step_0000006.png"] if stage in tiny_runs.PREVIEWED else []
    )
    assert sorted(path.name for path in (run.workdir / "checkpoints").iterdir()) == ["3", "6"]
    parts = {
        "vae": {"vae"},
        "base": {"vae", "t5", "base"},
        "relay": {"vae", "t5", "base", "relay"},
    }[stage]
    assert {path.name for path in (run.workdir / "cascade").iterdir()} == {"cascade.json", *parts}
    kept = runs.run_of(run.workdir / "checkpoints", 6)["config"]
    assert yaml.safe_load((run.workdir / "config.yaml").read_text()) == kept


def test_the_compilation_count_sees_a_changed_batch(tmp_path):
    late = []

    def wrap(step):
        def counted(state, batch):
            out = step(state, batch)
            late.append(len(compiled))
            return out

        return counted

    shapes = iter([8] * 5 + [4] * 3)
    with tiny_runs.compilations() as compiled:
        toy(tmp_path, place=lambda batch: jax.device_put(batch[: next(shapes)]), wrap=wrap)
    assert late[4] == late[0]
    assert late[5] > late[0]
    assert "jit(train_step)" in compiled[late[0] :]


def test_numpy_smuggled_into_a_step_is_refused(tmp_path):
    add = jax.jit(lambda state, x: dataclasses.replace(state, step=state.step + x))

    def wrap(step):
        return lambda state, batch: step(add(state, np.int32(0)), batch)

    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        toy(tmp_path, wrap=wrap)


# test_hosts.py and test_sharding.py have a model with attention on one device, eight and two
# processes in every run of the tests
@pytest.mark.parametrize(
    "stage", ["vae", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("base", "relay"))]
)
def test_one_device_and_eight_devices_have_the_same_losses(stage, tmp_path):
    with tiny_runs.devices(1):
        pieces = build(tiny_runs.config(stage, *tiny_runs.ALONE), tmp_path)
    pieces.compile()
    state, losses = pieces.create(), []
    for _ in range(tiny_runs.STEPS):
        state, metrics = pieces.step(state, pieces.place(next(pieces.data)))
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == tiny_runs.STEPS
    np.testing.assert_allclose(losses, tiny_runs.trained(stage).losses, rtol=1e-4)


@pytest.mark.slow
def test_a_state_compiled_in_haste_is_the_same(tmp_path):
    with tiny_runs.split_small():
        pieces = build(tiny_runs.config("base", *tiny_runs.MESH["base"]), tmp_path)
    hasty = pieces.create()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            states,
            "jit_once",
            lambda function, shardings: jax.jit(function, out_shardings=shardings),
        )
        jax.config.update("jax_disable_most_optimizations", False)
        try:
            careful = pieces.create()
        finally:
            jax.config.update("jax_disable_most_optimizations", True)
    ours, theirs = named_leaves(hasty), named_leaves(careful)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_the_parameters_of_the_eight_devices_were_split(tmp_path):
    with tiny_runs.split_small():
        pieces = build(tiny_runs.config("base", *tiny_runs.MESH["base"]), tmp_path)
    state = pieces.create()
    assert (
        max(x.size // x.addressable_shards[0].data.size for x in jax.tree.leaves(state.params)) == 4
    )
    for moments in (state.ema, optax.tree.get(state.opt_state, "mu")):
        assert jax.tree.map(lambda x: x.sharding, moments) == jax.tree.map(
            lambda x: x.sharding, state.params
        )


def test_eight_microbatches_make_the_update_of_one_batch():
    tx = optimizers.make_optimizer(
        optimizers.OptimizerSettings("adamw", clip=0.01), optax.constant_schedule(0.1)
    )
    batch, frozen = next(numbers()), jnp.array([[2.0], [-1.0]])
    state = create_state(lambda key: {"w": jnp.ones((2, 1))}, tx, jax.random.key(0))
    whole, parts = (
        jax.jit(make_train_step(squares, tx, decay=0.9, accumulate=n))(state, frozen, batch)
        for n in (1, 8)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        (whole[0].params, whole[1]),
        (parts[0].params, parts[1]),
    )
    assert np.abs(whole[0].params["w"] - 1).min() > 0.01
    assert sorted(microbatches(np.arange(8), 4).tolist()) == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_each_image_has_its_own_key_whatever_the_microbatch():
    tx = optax.sgd(1.0)
    state = create_state(lambda key: {"w": jnp.zeros(())}, tx, jax.random.key(0))

    def loss(params, frozen, batch, keys):
        return params["w"] * (batch[:, 0] * jax.vmap(jax.random.normal)(keys)).mean(), {}

    batch = jnp.arange(8.0)[:, None]
    keys = image_keys(jax.random.fold_in(state.key, 0), 8)
    wanted = -np.mean(np.arange(8) * jax.vmap(jax.random.normal)(keys))
    for count in (1, 2, 4, 8):
        after = make_train_step(loss, tx, decay=0.9, accumulate=count)(state, None, batch)[0]
        np.testing.assert_allclose(after.params["w"], wanted, rtol=1e-5)


def test_the_scenes_relay_trains_on_quarters_and_draws_whole_pictures(tmp_path):
    batch = next(build(tiny_runs.config("relay", *tiny_runs.MESH["relay"]), tmp_path).data)
    assert batch["image"].shape == (8, 32, 32, 3)
    sizes = np.asarray(batch["sizes"])
    assert sizes[:, [0, 1, 4, 5]].tolist() == [[64, 64, 32, 32]] * 8
    corners = sizes[:, 2:4]
    assert (corners % 8 == 0).all()
    assert corners.max() <= 32
    assert len(np.unique(corners, axis=0)) > 1
    run = tiny_runs.trained("relay").workdir
    stages = cascades.read_cascade(run)[1].stages
    assert {name: stage.image_size for name, stage in stages.items()} == {
        "base": 32,
        "relay": 64,
    }
    with Image.open(next((run / "previews").glob("step_*.png"))) as sheet:
        assert sheet.height > 4 * 64  # four rows of whole pictures


def test_a_stopped_run_is_read_as_the_cascade_that_it_would_leave(tmp_path):
    """The base has its own text encoder with random parameters."""
    run = tiny_runs.trained("base").workdir
    directory, description = cascades.read_cascade(run)
    stopped, found = cascades.read_cascade(run / "checkpoints" / str(tiny_runs.STEPS))
    assert found == description
    theirs, ours = (load_params(*one) for one in ((directory, description), (stopped, found)))
    jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])
    np.testing.assert_array_equal(*(tokenize(["a red star"]) for _, tokenize in (ours, theirs)))


def test_a_relay_starts_from_the_base_s_ema(tmp_path):
    with tiny_runs.split_small():
        state = build(tiny_runs.config("relay", *tiny_runs.MESH["relay"]), tmp_path).create()
    directory, description = cascades.read_cascade(tiny_runs.trained("base").workdir)
    ema = load_params(directory, description, ("base",))[0]["base"]
    jax.tree.map(np.testing.assert_array_equal, state.params, ema)
    jax.tree.map(np.testing.assert_array_equal, state.ema, ema)
    assert int(state.step) == 0
    manager = runs.open_manager(tiny_runs.trained("base").workdir / "checkpoints")
    last = manager.restore(
        tiny_runs.STEPS,
        args=runs.ocp.args.Composite(state=runs.ocp.args.StandardRestore()),
    ).state
    manager.close()
    # and that is the EMA, not the parameters
    jax.tree.map(np.testing.assert_array_equal, ema, last["ema"])
    assert any(
        np.any(a != b)
        for a, b in zip(
            jax.tree.leaves(ema), jax.tree.leaves(jax.device_get(last["params"])), strict=True
        )
    )
