"""Test the training of adapters: what is trained, on which mesh, and what is written."""

import jax
import jax.numpy as jnp
import lora_runs
import numpy as np
import pytest
import tiny_runs
from safetensors.numpy import load_file
from states import assert_equal, leaves, named_leaves, untimed

from cv3jax.adapters import formats
from cv3jax.adapters.trees import to_tree
from cv3jax.cascade.parts import load_params
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.lora.run import kind_of
from cv3jax.lora.stage import LoraStage
from cv3jax.models import adapters
from cv3jax.training.inputs import stage_inputs
from cv3jax.training.metrics import read_lines
from data_pipeline.io.errors import InputError

RUN = ("train.preview_every=2", "lora.dora=True")
LEAVES = {adapters.DOWN, adapters.UP}


def steps_of(stage, count=lora_runs.STEPS):
    """Return (the state after some steps, the losses)."""
    stage.compile()
    state, losses = stage.create(), []
    for _ in range(count):
        state, metrics = stage.step(state, stage.place(next(stage.data)))
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return (the stage on one device in four microbatches, its last state, its losses)."""
    made = lora_runs.alone(tmp_path_factory.mktemp("alone"))
    return made, *steps_of(made)


def test_only_adapters_are_trained_and_in_float32(alone):
    stage, state, losses = alone
    for tree in (state.params, state.ema):
        names = {path[-1].key for path, _ in jax.tree.leaves_with_path(tree)}
        assert names == LEAVES
        assert {x.dtype for x in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    trained = sum(x.size for x in jax.tree.leaves(state.params))
    whole = sum(x.size for x in jax.tree.leaves(stage._aside))
    assert trained < 0.2 * whole
    moments = sum(x.size for x in jax.tree.leaves(state.opt_state))
    assert moments < 2.1 * trained
    assert len(set(losses)) == lora_runs.STEPS
    moved = [np.abs(x).max() for x in jax.tree.leaves(state.params) if x.ndim > 1]
    assert min(moved) > 0


def test_eight_devices_train_what_one_does(alone, tmp_path):
    chosen = lora_runs.settings(*lora_runs.EIGHT)
    with tiny_runs.split_small():
        made = LoraStage(chosen, tmp_path)
        assert any("fsdp" in str(x.sharding.spec) for x in jax.tree.leaves(made._aside))
        assert any("fsdp" in str(x.sharding.spec) for x in jax.tree.leaves(made.like.params))
        state, losses = steps_of(made)
    np.testing.assert_allclose(losses, alone[2], rtol=1e-4)
    ours, theirs = named_leaves(state.params), named_leaves(alone[1].params)
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=2e-4, err_msg=name)


def test_a_base_of_bfloat16_is_kept_so(tmp_path):
    made = lora_runs.alone(tmp_path, "model.dtype=bfloat16")
    kernels = adapters.kernels(made._aside["base"])
    assert {x.dtype for x in kernels.values()} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(made.like.params)} == {jnp.dtype("float32")}
    fresh = made.create()
    merged = adapters.kernels(adapters.merged(made._weights(fresh.ema)))
    for path, kernel in kernels.items():
        np.testing.assert_array_equal(merged[path], kernel)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return (the workdir, the figures) of a run with an evaluation and previews."""
    workdir = tmp_path_factory.mktemp("run") / "w"
    return workdir, lora_runs.run_alone(workdir, *RUN)


def test_a_run_writes_its_adapter_and_no_cascade(trained):
    workdir, figures = trained
    assert not (workdir / "cascade").exists()
    assert [path.name for path in (workdir / "lora").iterdir()] == ["adapter.safetensors"]
    adapter = formats.read(workdir / "lora" / "adapter.safetensors")
    layers = adapter.layers.values()
    assert {one.rank for one in layers} == {2}
    assert {adapter.scale(name) for name in adapter.layers} == {0.5}
    arrays = [x for one in layers for x in (one.down, one.up, one.magnitude)]
    assert {x.dtype for x in arrays} == {np.dtype("float32")}
    assert figures["layers"] == len(layers)
    assert figures["parameters"] == sum(x.size for x in arrays)
    assert len(list((workdir / "previews").glob("step_*.png"))) == 3  # and before


def test_the_header_says_what_the_adapter_is_of(trained):
    adapter = formats.read(trained[0] / "lora" / "adapter.safetensors")
    base = tiny_runs.trained("base").workdir
    assert adapter.metadata["cv3jax.base"] == parts_fingerprint(base, ("base",))
    assert adapter.metadata["cv3jax.targets"] == "attention,convolutions"
    assert (adapter.stage, adapter.rslora) == ("base", False)


def test_the_file_is_the_ema_and_merged_it_is_what_previews_draw(trained, tmp_path):
    workdir, _ = trained
    directory, description = cascades.read_cascade(tiny_runs.trained("base").workdir)
    stage = description.stages["base"]
    tree = to_tree(formats.read(workdir / "lora" / "adapter.safetensors"), stage)
    ours = named_leaves(without(tree))
    for name, x in leaves(workdir, lora_runs.STEPS).items():
        if name.startswith("ema/"):
            np.testing.assert_array_equal(ours.pop(name.removeprefix("ema/")), x)
    assert not ours
    base = load_params(directory, description, ("base",))[0]["base"]
    made, by_hand = lora_runs.alone(tmp_path, "lora.dora=True"), adapters.merged(base, tree)
    beside = made._weights(without(tree))
    kernels = adapters.kernels(made._aside["base"])
    assert all(x is kernels[path] for path, x in adapters.kernels(beside).items())  # no copies
    cascade = made.cascade_of_stage
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    text, noise = cascade.text(["a red circle", "a blue star"]), cascade.noise(keys, 32)
    drawn, wanted, without_it = (
        cascade.with_params("base", weights).stage("base", text, keys, noise)
        for weights in (beside, by_hand, base)
    )
    np.testing.assert_allclose(drawn, wanted, atol=1e-5)
    assert np.abs(np.subtract(drawn, without_it)).max() > 1e-3


def without(tree):
    """Return an adapter's tree without what is not trained."""
    return {
        name: without(x) if isinstance(x, dict) else x
        for name, x in tree.items()
        if name != adapters.SCALE
    }


def test_a_run_of_an_adapter_is_no_cascade(trained):
    with pytest.raises(InputError, match="trains an adapter, which is no cascade; give the"):
        cascades.read_cascade(trained[0])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (("lora.rank=3",), "lora.rank; give the old ones, or a new --workdir"),
        (("lora.targets=attention",), "lora.targets cannot change, because the parameters"),
        (("lora.alpha=2.0",), "lora.alpha cannot change"),
        (("lora.dropout=0.5",), "allow the change with --allow-changed lora.dropout"),
        (("init_from=scenes_teacher",), "holds a run with other values of init_from"),
    ],
)
def test_another_adapter_does_not_continue_a_run(trained, fields, says):
    with pytest.raises(InputError, match=says):
        lora_runs.run_alone(trained[0], *RUN, *fields)


def test_a_finished_run_is_exported_again(trained):
    workdir, _ = trained
    file = workdir / "lora" / "adapter.safetensors"
    before = load_file(file)
    file.unlink()
    lora_runs.run_alone(workdir, *RUN)
    assert_equal(load_file(file), before)


def test_a_run_in_two_sittings_is_that_of_one_bit_for_bit(trained, tmp_path):
    lora_runs.run_alone(tmp_path / "w", *RUN, "train.steps=2")
    lora_runs.run_alone(tmp_path / "w", *RUN)
    ours, theirs = (leaves(workdir, lora_runs.STEPS) for workdir in (tmp_path / "w", trained[0]))
    assert_equal(ours, theirs)
    lines = [
        untimed(read_lines(workdir / "metrics.jsonl")) for workdir in (tmp_path / "w", trained[0])
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == lora_runs.STEPS


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (("objective.prediction=eps",), "config.objective.prediction = eps, but config.cascade"),
        (("model.channels=32",), "its base differs from config.model: channels is 16"),
        (("lora.targets=feed,attention",), "'feed' is no layer of this model; give attention, f"),
        (("lora.targets=down_7*",), "or patterns such as conv_final, "),
        (("init_part=relay",), "has no relay to adapt: it has base"),
        (("init_from=scenes",), "its base is distilled, and the plain loss would undo that"),
        (("schedule.blur=linear", "schedule.start=40"), "its base is a base stage, but the rec"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, fields, says):
    with pytest.raises(InputError) as e:
        lora_runs.alone(tmp_path, *fields)
    assert says in str(e.value)
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())


def test_the_base_is_part_of_what_a_run_depends_on():
    chosen = [lora_runs.settings(*fields) for fields in ((), ("init_from=scenes_teacher",))]
    inputs = [kind_of(one).inputs(one.stage) for one in chosen]
    encoders = stage_inputs(chosen[0].stage)["cascade"]
    assert inputs[0]["cascade"] != encoders == inputs[1]["cascade"]
    assert inputs[1]["init_from"] == parts_fingerprint("scenes_teacher", ("base",))
