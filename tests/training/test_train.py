"""The training machine: one compilation a run, no hidden transfers, the same losses on any mesh,
the stop on NaN, the update rule.
"""

import dataclasses
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_runs
from PIL import Image
from states import named_leaves
from toy_runs import CADENCE, numbers, squares, toy

from cv3jax import cli
from cv3jax.cascade.parts import load_params
from cv3jax.checkpoints import cascades, runs
from cv3jax.commands import train
from cv3jax.optim import learning_rate, optimizers
from cv3jax.training import autoencoder
from cv3jax.training import run as training
from cv3jax.training import state as states
from cv3jax.training.build import build
from cv3jax.training.loop import NonFiniteLossError
from cv3jax.training.memory_plan import memory_plan
from cv3jax.training.metrics import read_lines
from cv3jax.training.train_step import (
    create_state,
    ema_decay,
    image_keys,
    make_train_step,
    microbatches,
)

pytestmark = pytest.mark.usefixtures("quick_compiles")

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
    assert [path.name for path in (run.workdir / "previews").glob("*")] == (
        ["step_0000006.png"] if stage in tiny_runs.PREVIEWED else []
    )
    assert sorted(path.name for path in (run.workdir / "checkpoints").iterdir()) == ["3", "6"]
    parts = {
        "vae": {"vae"},
        "base": {"vae", "t5", "base"},
        "relay": {"vae", "t5", "base", "relay"},
    }[stage]
    assert {path.name for path in (run.workdir / "cascade").iterdir()} == {"cascade.json", *parts}


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
    with Image.open(next((run / "previews").glob("*.png"))) as sheet:
        assert sheet.height > 4 * 64  # four rows of whole pictures


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


def test_a_nan_ends_the_command_with_exit_1_and_leaves_the_last_good_checkpoint(
    tmp_path, monkeypatch, capsys
):
    def poison(step, state):
        if step != 4:
            return state
        with jax.transfer_guard("allow"):
            return dataclasses.replace(
                state, params=jax.tree.map(lambda x: x * jnp.nan, state.params)
            )

    tiny_runs.watch(monkeypatch, lambda step: None, poison)
    arguments = tiny_runs.argv("vae", tmp_path / "w", *tiny_runs.MESH["vae"], "train.log_every=5")
    with pytest.raises(SystemExit) as e, tiny_runs.split_small():
        cli.run_command(train.main, arguments)
    assert e.value.code == 1
    said = capsys.readouterr().err
    assert said.count("cv3jax: vae: parameters from scratch\n") == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith("cv3jax: step 5: loss and grad_norm")
    assert "checkpoint of step 3 remains" in last
    assert [p.name for p in (tmp_path / "w" / "checkpoints").iterdir()] == ["3"]
    assert not (tmp_path / "w" / "cascade").exists()
    assert [line["step"] for line in read_lines(tmp_path / "w" / "metrics.jsonl")] == [3]
    monkeypatch.undo()
    with tiny_runs.split_small():
        figures = training.run(
            tiny_runs.config("vae", *tiny_runs.MESH["vae"], "train.log_every=5"), tmp_path / "w"
        )
    assert figures["train_psnr"] == pytest.approx(tiny_runs.trained("vae").figures["train_psnr"])


def test_sigterm_ends_the_command_with_exit_0_a_checkpoint_and_a_memory_plan_before_the_first_step(
    tmp_path, monkeypatch, capsys
):
    workdir = shutil.copytree(tiny_runs.trained("vae").workdir, tmp_path / "w")
    shutil.rmtree(workdir / "checkpoints" / str(tiny_runs.STEPS))  # it goes on from step 3
    capsys.readouterr()  # of that run, where it was this test that made it
    announced, before, plans = autoencoder.compiled_and_announced, [], []

    def spied(programs, state, frozen, batches):
        (program,) = announced(programs, state, frozen, batches)
        plan = memory_plan(state, frozen, batches, [program])

        def step(state, frozen, batch):
            before.append(capsys.readouterr().err)
            here = {
                "parameters": state.params,
                "moments": state.opt_state,
                "EMA": state.ema,
                "batch": batch,
            }
            for kind, tree in here.items():
                plans.append(
                    sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
                    == plan[kind]
                    > 0
                )
            os.kill(os.getpid(), signal.SIGTERM)
            return program(state, frozen, batch)

        return [step]

    monkeypatch.setattr(autoencoder, "compiled_and_announced", spied)
    with tiny_runs.split_small():
        # exits where the code is not 0
        cli.run_command(train.main, tiny_runs.argv("vae", workdir, *tiny_runs.MESH["vae"]))
    (said,) = before
    assert len(re.findall(r"cv3jax: memory a device, GB: .*; \d+\.\d\d in all\n", said)) == 1
    assert plans == [True] * 4
    after = capsys.readouterr().err
    assert (
        f"cv3jax: SIGTERM: stopped after step 4, saved in {workdir}/checkpoints/4; run the same"
        " command to continue\n" in after
    )
    assert "memory a device" not in after
    assert runs.steps(workdir / "checkpoints") == [3, 4]
    runs.verify(workdir / "checkpoints", 4)


def test_a_huge_learning_rate_reaches_no_checkpoint(tmp_path):
    with pytest.raises(
        NonFiniteLossError,
        match="step 1: param_norm not finite; stopped, there is no checkpoint yet; try a lower",
    ):
        toy(tmp_path, lr=1e38, cadence=dataclasses.replace(CADENCE, log=1, save=1))
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_run_goes_on_from_its_checkpoint_and_its_metrics_have_no_step_twice(tmp_path):
    whole = toy(tmp_path / "a")
    toy(tmp_path / "b", cadence=dataclasses.replace(CADENCE, steps=5))
    resumed = toy(tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    assert [line["step"] for line in read_lines(tmp_path / "b" / "metrics.jsonl")] == [
        2,
        4,
        5,
        6,
        8,
    ]


def test_the_ema_follows_its_formula():
    tx, decay = optax.sgd(0.5), 0.6
    state = create_state(lambda key: {"w": jnp.array([3.0])}, tx, jax.random.key(0))
    step = jax.jit(
        make_train_step(lambda p, f, b, k: (jnp.sum(p["w"] ** 2) / 2, {}), tx, decay=decay)
    )
    w = ema = 3.0
    for n in range(12):
        state, _ = step(state, None, jnp.zeros((1,)))
        w /= 2
        d = min(decay, (1 + n) / (10 + n))
        ema = d * ema + (1 - d) * w
        np.testing.assert_allclose([state.params["w"][0], state.ema["w"][0]], [w, ema], rtol=1e-5)
        np.testing.assert_allclose(ema_decay(decay, n), d, rtol=1e-6)


@pytest.mark.parametrize(
    ("decay", "points"),
    [
        ("constant", {0: 0.0, 5: 0.5, 10: 1.0, 60: 1.0, 110: 1.0}),
        ("linear", {0: 0.0, 5: 0.5, 10: 1.0, 60: 0.6, 110: 0.2, 200: 0.2}),
        (
            "cosine",
            {
                0: 0.0,
                5: 0.5,
                10: 1.0,
                60: 0.6,
                110: 0.2,
                200: 0.2,
                35: 0.2 + 0.8 * (1 + np.cos(np.pi / 4)) / 2,
            },
        ),
    ],
)
def test_learning_rate(decay, points):
    rate = learning_rate.learning_rate(1e-3, warmup=10, decay=decay, steps=110, final=0.2)
    for step, share in points.items():
        np.testing.assert_allclose(rate(step), 1e-3 * share, rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(
        learning_rate.learning_rate(1e-3, warmup=0, decay="constant", steps=5)(0), 1e-3
    )


def first_update(kind, params, grads, **options):
    tx = optimizers.make_optimizer(
        optimizers.OptimizerSettings(kind, **options), optax.constant_schedule(0.1)
    )
    return jax.jit(lambda params, grads: tx.update(grads, tx.init(params), params)[0])(
        params, grads
    )


def test_clipping_is_of_the_global_norm_and_weight_decay_is_decoupled():
    params, grads = (
        {"a": jnp.ones(3), "b": jnp.ones((2, 2))},
        {"a": jnp.full(3, 30.0), "b": jnp.full((2, 2), 40.0)},
    )
    eps = 1e3  # so large that adam's update is proportional to the gradient
    plain, clipped = (
        first_update("adamw", params, grads, clip=clip, eps=eps) for clip in (1e9, 1.0)
    )
    norm = np.sqrt(3 * 30.0**2 + 4 * 40.0**2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a / norm, b, rtol=0.1), plain, clipped)
    for kind, decayed_vectors in (("adamw", True), ("muon", False)):
        without, decayed = (
            first_update(kind, params, grads, weight_decay=decay) for decay in (0.0, 0.5)
        )
        np.testing.assert_allclose(decayed["b"], without["b"] - 0.1 * 0.5, atol=1e-6)
        np.testing.assert_allclose(
            decayed["a"], without["a"] - 0.1 * 0.5 * decayed_vectors, atol=1e-6
        )


def test_muon_makes_each_layer_s_kernel_orthogonal_and_leaves_vectors_to_adam():
    rng = np.random.default_rng(0)
    shapes = {
        "dense": (6, 4),
        "wide": (4, 7),
        "conv": (3, 3, 2, 5),
        "bias": (5,),
        "blocks": {"dense": (3, 8, 4), "bias": (3, 4)},
    }
    params = jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    labels = optimizers.muon_labels(params)
    assert [labels["dense"], labels["conv"], labels["blocks"]["dense"]] == ["muon"] * 3
    update = first_update("muon", params, params)
    kernels = [
        update["dense"],
        update["wide"],
        update["conv"].reshape(18, 5),
        *update["blocks"]["dense"],
    ]
    # rows and columns as one matrix, each layer by itself: singular values all about the same
    for kernel in kernels:
        values = np.linalg.svd(kernel / (0.1 * 0.2 * np.sqrt(max(kernel.shape))), compute_uv=False)
        assert 0.5 < values.min() <= values.max() < 1.4
    for vector in (update["bias"], update["blocks"]["bias"]):  # adam's first step
        np.testing.assert_allclose(np.abs(vector), 0.1, rtol=1e-3)
