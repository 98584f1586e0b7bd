"""Test that `cv3jax compile` compiles the programs that a run executes.

It has neither data nor weights nor devices, but the arguments have the same shapes, dtypes and
shardings as in a run.
"""

import jax
import numpy as np
import pytest
import tiny_runs
from hollow_samplers import one_step
from states import name_of

from cv3jax import recipes
from cv3jax.aot import programs as aot_programs
from cv3jax.aot.programs import program
from cv3jax.cascade import pipeline, samplers
from cv3jax.distillation import build as building
from cv3jax.distillation.parsing import parse_distillation
from cv3jax.distributed.mesh import make_mesh
from cv3jax.training import diffusion
from cv3jax.training.build import build
from data_pipeline.io.errors import InputError

MESH = ("mesh.data=2", "mesh.fsdp=4")
PROMPTS = ["a small red circle"] * 8  # one a device, as batch.per_device says


def facts(tree) -> dict[str, tuple]:
    """Return (shape, dtype, part on each device) of every leaf."""

    def fact(x):
        return (
            x.shape,
            x.dtype,
            {
                device.id: str(part)
                for device, part in x.sharding.devices_indices_map(x.shape).items()
            },
        )

    return {name_of(path): fact(x) for path, x in jax.tree.leaves_with_path(tree)}


def test_a_run_calls_encode_and_train_with_what_is_compiled(tmp_path, monkeypatch):
    # what is trained for it must not run the functions below
    config, called = tiny_runs.config("relay", *MESH), {}

    def programs(compiled, *_):
        def encode(*args):
            called["encode"] = args
            return compiled[1][1][2]

        def train(*args):
            called["train"] = args[:2]

        return encode, train

    monkeypatch.setattr(diffusion, "compiled_and_announced", programs)
    with tiny_runs.split_small():
        run = build(config, tmp_path)
        run.compile()
        run.step(run.create(), run.place(next(run.data)))
        ours = {step: program(config, jax.devices(), step) for step in called}
    assert facts(ours["encode"].args) == facts(called["encode"])
    assert facts(ours["train"].args[:2]) == facts(called["train"])
    encoded = jax.eval_shape(ours["encode"].jitted, *ours["encode"].args)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), encoded) == jax.tree.map(
        lambda x: (x.shape, x.dtype), ours["train"].args[2]
    )
    assert {work.images for work in ours.values()} == {config.batch.size}


def test_sampling_calls_each_stage_with_what_is_compiled(monkeypatch):
    source, called = tiny_runs.trained("relay").workdir, {}

    def sampler(stage, _):
        def run(params, text, low, state, keys, w, _):
            called[stage.kind] = (params, text, low, state[0], keys, w)
            return state

        return one_step(run)

    monkeypatch.setattr(samplers, "make_stage_steps", sampler)
    monkeypatch.setattr(
        pipeline.Cascade,
        "decode",
        lambda _, z, tile: np.zeros((len(z), 8 * z.shape[1], 8 * z.shape[2], 3), np.uint8),
    )
    with tiny_runs.split_small():
        pipeline.load(source, mesh=make_mesh(data=2, fsdp=4)).generate(
            PROMPTS, list(range(8)), final=True
        )
        ours = {
            stage: program(tiny_runs.config(stage, *MESH), jax.devices(), "sample")
            for stage in ("base", "relay")
        }
    assert called.keys() == ours.keys()
    for stage, work in ours.items():
        assert facts(work.args) == facts(called[stage])
        latents = jax.eval_shape(work.jitted, *work.args)
        assert (latents.shape, work.images) == (called[stage][3].shape, 8)
    split = {not x.sharding.is_fully_replicated for x in jax.tree.leaves(ours["relay"].args[0])}
    assert split == {True, False}


@pytest.mark.parametrize("step", ["train", "later"])
def test_a_distillation_calls_its_rounds_with_what_is_compiled(step, tmp_path, monkeypatch):
    """The teacher is sharded as the student, in the dtype of the computation."""
    # guidance-conditioned, for any number of steps
    done = tiny_runs.distilled("relay").workdir / "rounds" / "1_1_steps" / "cascade"
    config, called = (
        tiny_runs.distill_config(
            "relay", "model.dtype=bfloat16", f"distill.rounds={tiny_runs.rounds({2: 1, 1: 1})}"
        ),
        {},
    )

    def programs(compiled, *_):
        def train(*args):
            called[step] = args[:2]

        def encode(*args):
            called["encode"] = args
            return compiled[1][1][2]

        return (train, encode)

    monkeypatch.setattr(
        building,
        "compiled_and_announced",
        lambda compiled, *rest: programs(compiled, *rest)[: len(compiled)],
    )
    with tiny_runs.split_small():
        work = building.build_distillation(config, tmp_path)
        teacher, plan = work.teacher, work.settings.rounds[0]
        if step == "later":
            teacher, plan = (
                building.Trained(done, building.student_stage(work, plan)),
                work.settings.rounds[1],
            )
        params = building.load_stage(work, teacher)
        state = building.create_student(work, plan, teacher, params)
        data, placed = building.round_data(work, plan)
        building.round_step(work, plan, teacher, building.as_frozen(work, params))(
            state, placed(next(data))
        )
        ours = {name: program(config, jax.devices(), name) for name in called}
    assert ours.keys() == {step, "encode"}
    assert facts(ours["encode"].args) == facts(called["encode"])
    assert facts(ours[step].args[:2]) == facts(called[step])
    encoded = jax.eval_shape(ours["encode"].jitted, *ours["encode"].args)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), encoded) == jax.tree.map(
        lambda x: (x.shape, x.dtype), ours[step].args[2]
    )
    theirs, mine = (
        facts(tree) for tree in (ours[step].args[1]["teacher"], ours[step].args[0].params)
    )
    assert mine.keys() - theirs.keys() == ({"w_proj/kernel"} if step == "train" else set())
    assert {name: (shape, place) for name, (shape, _, place) in theirs.items()} == {
        name: (shape, place) for name, (shape, _, place) in mine.items() if name in theirs
    }
    assert {str(dtype) for _, dtype, _ in mine.values()} == {"float32"}
    for name, (_, dtype, _) in theirs.items():
        assert str(dtype) == ("bfloat16" if name.endswith(("kernel", "embedding")) else "float32")
    assert any(len(set(place.values())) == 4 for _, _, place in theirs.values())


@pytest.mark.parametrize(
    ("name", "start", "steps"),
    [
        ("distill_base", 1000, (16, 8, 4)),
        ("distill_relay", 500, (4, 2, 1)),
        ("distill_relay:start200", 200, (4, 2, 1)),
    ],
)
def test_the_distillations_of_the_released_models(name, start, steps):
    config = parse_distillation(recipes.load(name, []))
    assert config.stage.schedule.start == start
    assert tuple(round.steps for round in config.rounds) == steps
    sizes = {}
    for step in ("train", "later"):
        state, aside, _ = program(config, jax.devices(), step).args
        assert aside["round"].pairs.t.shape == (steps[0], 3)
        sizes[step] = [
            sum(x.size for x in jax.tree.leaves(tree)) for tree in (state.params, aside["teacher"])
        ]
    conditioned = 2_906_612_484 + 512 * config.stage.model["channels"]
    assert sizes == {"train": [conditioned, 2_906_612_484], "later": [conditioned, conditioned]}


def test_a_distillation_samples_as_its_last_student(monkeypatch):
    seen = {}

    def sampler(stage, options):
        seen.update(steps=options.steps, model=stage.model)
        return lambda *args: args[3]

    monkeypatch.setattr(aot_programs, "make_stage_sampler", sampler)
    config = tiny_runs.distill_config("base")
    assert program(config, jax.devices(), "sample").params.keys() >= {"w_proj"}
    assert seen["steps"] == tiny_runs.ROUNDS["base"][-1] != config.stage.sample.steps
    assert seen["model"]["w_dim"] == 512


def test_only_a_distillation_has_later_rounds():
    with pytest.raises(
        InputError, match="--step later: only a distillation recipe has rounds after the first"
    ):
        program(tiny_runs.config("base"), jax.devices(), "later")


def test_a_vae_has_neither_text_to_encode_nor_pictures_to_draw():
    for step in ("encode", "sample"):
        with pytest.raises(
            InputError, match=f"--step {step}: a vae recipe has the step train only"
        ):
            program(tiny_runs.config("vae"), jax.devices(), step)
