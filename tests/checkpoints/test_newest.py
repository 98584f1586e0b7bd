"""Test that commands read the newest checkpoint of a run that has no cascade yet.

They read its EMA, and the other parts from the cascade that the run is based on.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from states import assert_equal, named_leaves
from toy_runs import numbers

from cv3jax import recipes
from cv3jax.cascade.parts import load_params, part_loader, part_shapes
from cv3jax.cascade.pipeline import load
from cv3jax.checkpoints import cascades, newest, runs
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.checkpoints.fingerprint import encoder_fingerprint, parts_fingerprint
from cv3jax.distributed.mesh import make_mesh
from cv3jax.distributed.partitioning import tree_sharding
from cv3jax.training.frozen import frozen_description
from cv3jax.training.parsing import parse_stage
from cv3jax.training.train_step import create_state
from cv3jax.weights.exporting import open_source
from data_pipeline.io.errors import InputError

PACKAGED = cascades.PACKAGED / "scenes"


def save(workdir: Path, step: int, part: str, ema, run: dict) -> Path:
    """Save a checkpoint of a run with this EMA and other parameters."""
    state = create_state(
        None, optax.sgd(0.1), jax.random.key(0), jax.tree.map(jax.numpy.ones_like, ema)
    )
    manager = runs.open_manager(workdir / "checkpoints", keep=9)
    runs.save(manager, step, dataclasses.replace(state, ema=ema), numbers(), run)
    runs.finish(manager)
    manager.close()
    return workdir / "checkpoints" / str(step)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """Return the --workdir of a base run with checkpoints of steps 2 and 4.

    It is based on the packaged encoders.
    """
    workdir = tmp_path_factory.mktemp("stopped")
    directory, description = cascades.read_cascade("scenes")
    ema = load_params(directory, description, ("base",))[0]["base"]
    places = {part: directory / part for part in ("vae", "t5")}
    stages = {"base": description.stages["base"]}
    about = newest.about("base", dataclasses.replace(description, stages=stages), places)
    for step in (2, 4):
        scaled = jax.tree.map(lambda x, step=step: x * (step / 4), ema)
        save(workdir, step, "base", scaled, {"config": {"stage": "base"}, "cascade": about})
    return workdir


@pytest.fixture
def own(stopped, tmp_path) -> Path:
    """Return a copy of the stopped run."""
    return shutil.copytree(stopped, tmp_path / "own")


def base_of(path) -> dict:
    directory, description = cascades.read_cascade(path)
    return named_leaves(load_params(directory, description, ("base",))[0]["base"])


def test_the_newest_checkpoint_is_a_cascade_of_the_ema_and_the_parts_beside_it(own, capsys):
    assert_equal(base_of(own), base_of("scenes"))
    directory, description = cascades.read_cascade(own)
    assert directory == own / "checkpoints" / "4"
    assert description.parts == ("vae", "t5", "base")
    theirs = cascades.read_cascade("scenes")[1]
    assert description.stages["base"] == theirs.stages["base"]
    assert (description.vae, description.t5) == (theirs.vae, theirs.t5)
    said = capsys.readouterr().err  # once, however often it is read
    step = own / "checkpoints" / "4"
    assert said == f"cv3jax: {own} has no cascade yet; taking the EMA of step 4 from {step}\n"


def test_the_public_cascade_is_read_from_it_on_a_mesh_too(own):
    ours, theirs = load(own), load("scenes", ("vae", "t5", "base"))
    assert_equal(named_leaves(ours.params), named_leaves(theirs.params))
    tokens = [cascade.tokenize(["a red star"]) for cascade in (ours, theirs)]
    np.testing.assert_array_equal(*tokens)
    mesh = make_mesh(data=1, fsdp=8, tensor=1, context=1)
    directory, description = cascades.read_cascade(own)
    shared, _ = load_params(
        directory, description, ("base",), lambda shapes: tree_sharding(shapes, mesh)
    )
    assert_equal(named_leaves(shared["base"]), base_of("scenes"))
    assert max(len(x.sharding.device_set) for x in jax.tree.leaves(shared)) == 8


def test_a_cascade_that_is_there_comes_first_and_a_step_may_be_named(own):
    half = base_of(own / "checkpoints" / "2")
    assert_equal(half, {name: x / 2 for name, x in base_of(own).items()})
    shutil.copytree(PACKAGED, own / "cascade")
    assert cascades.read_cascade(own)[0] == own / "cascade"
    assert cascades.read_cascade(own / "checkpoints" / "4")[0] == own / "checkpoints" / "4"


def test_one_command_reads_one_checkpoint_while_its_run_continues(own):
    shutil.move(own / "checkpoints" / "4", own / "later")
    place = cascades.pinned(own)
    shutil.move(own / "later", own / "checkpoints" / "4")
    assert place == own / "checkpoints" / "2" == cascades.read_cascade(place)[0]
    assert cascades.pinned(own) == own / "checkpoints" / "4"
    assert cascades.pinned("scenes").name == "scenes"
    shutil.copytree(PACKAGED, own / "cascade")
    assert cascades.pinned(own) == own


def test_a_checkpoint_that_is_not_signed_yet_is_passed_over(own):
    (own / "checkpoints" / "4" / "manifest.json").unlink()
    shutil.copytree(own / "checkpoints" / "4", own / "checkpoints" / "6.orbax-checkpoint-tmp-1")
    assert cascades.read_cascade(own)[0] == own / "checkpoints" / "2"


def test_one_that_is_damaged_is_named_and_not_read(own):
    for path in (own / "checkpoints" / "4" / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"checkpoints/4 is damaged: state/"):
        base_of(own)
    with pytest.raises(InputError, match=r"checkpoints/4 is damaged: state/"):
        open_source(own, "ema", ["base"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: {"config": run["config"]}, "does not name its cascade"),
        (lambda run: {**run, "cascade": {**run["cascade"], "description": {}}}, "format 1 or 2"),
        (
            lambda run: {**run, "cascade": {**run["cascade"], "parts": {"t5": "/gone"}}},
            "does not exist",
        ),
    ],
    ids=["older", "damaged", "gone"],
)
def test_what_a_checkpoint_cannot_tell_is_one_line(change, said, own):
    path = own / "checkpoints" / "4" / "run" / "metadata"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=said):
        load(own)


def test_it_is_known_by_its_content_as_a_cascade_is(own):
    assert parts_fingerprint(own, ["vae"]) == parts_fingerprint("scenes", ["vae"])
    prints = [parts_fingerprint(own / "checkpoints" / str(step), ["base"]) for step in (2, 4)]
    assert len(set(prints)) == 2
    directory, description = cascades.read_cascade(own)
    theirs = cascades.read_cascade("scenes")
    for part in ("vae", "t5"):
        assert encoder_fingerprint(directory, description, part) == encoder_fingerprint(
            *theirs, part
        )


def test_another_run_starts_from_it(own):
    shapes = part_shapes(cascades.read_cascade("scenes")[1], "base")
    mesh = make_mesh(data=1, fsdp=1, tensor=1, context=1, devices=jax.devices()[:1])
    params = part_loader(str(own), "base", {})(shapes, tree_sharding(shapes, mesh))
    assert_equal(named_leaves(params), base_of("scenes"))


def test_it_is_exported_with_the_parts_it_stands_on(own):
    source = open_source(own, "ema")
    assert list(source.parts) == ["vae", "t5", "base"]
    assert (source.tokenizer / "tokenizer.json").is_file()
    kernel = source.parts["base"].params["conv_in"]["kernel"].read()
    np.testing.assert_array_equal(kernel, base_of("scenes")["conv_in/kernel"])
    assert source.parts["base"].side == 8


def test_a_stage_does_not_stand_on_a_checkpoint_that_will_go(own):
    settings = parse_stage(recipes.load("scenes_relay", [f"--config.cascade={own}"]))
    with pytest.raises(InputError, match=r"is a run that has not finished, .*export_every"):
        frozen_description(settings)


def test_an_autoencoder_starts_another_and_draws_nothing_before_its_scale_is_known(tmp_path):
    directory, description = cascades.read_cascade("scenes")
    ema = load_params(directory, description, ("vae",))[0]["vae"]
    vae = dataclasses.replace(description.vae, scale=None)
    about = newest.about("vae", CascadeDescription(vae), {})
    save(tmp_path, 3, "vae", ema, {"config": {"stage": "vae"}, "cascade": about})
    directory, found = cascades.read_cascade(tmp_path)
    assert found.vae == vae
    assert_equal(named_leaves(load_params(directory, found, ("vae",))[0]["vae"]), named_leaves(ema))
    part_loader(str(tmp_path), "vae", {})
    with pytest.raises(
        InputError, match="autoencoder's latent scale is not measured yet; let its run finish"
    ):
        load(tmp_path)


def test_of_a_distillation_it_is_the_last_round(own, tmp_path, capsys):
    whole = tmp_path / "fast"
    (whole / "rounds").mkdir(parents=True)
    shutil.copytree(own, whole / "rounds" / "10_1_steps")
    shutil.copytree(own, whole / "rounds" / "9_2_steps")
    shutil.copytree(PACKAGED, whole / "rounds" / "9_2_steps" / "cascade")
    last = whole / "rounds" / "10_1_steps"
    assert cascades.read_cascade(whole)[0] == last / "checkpoints" / "4"
    shutil.rmtree(last / "checkpoints")  # it has begun, and has none yet
    assert cascades.read_cascade(whole)[0] == whole / "rounds" / "9_2_steps" / "cascade"
    assert f"cv3jax: {whole} has no cascade yet" in capsys.readouterr().err


def test_runs_one_level_below_are_named(tmp_path):
    for name in ("base", "relay", "words"):
        (tmp_path / "emoji" / name).mkdir(parents=True)
    shutil.copy(PACKAGED / "cascade.json", tmp_path / "emoji" / "relay")
    (tmp_path / "emoji" / "base" / "checkpoints" / "7").mkdir(parents=True)
    at = tmp_path / "emoji"
    with pytest.raises(
        InputError, match=f"directory, such as {at}/base or {at}/relay, or the name"
    ):
        cascades.find_cascade(at)
