"""Pictures that do not fit the devices are refused by their figure, before a parameter is read."""

import golden_models
import jax
import numpy as np
import pytest
from bad_input import refused

from cv3jax.cascade import memory, pipeline
from cv3jax.cascade.sampler_settings import AS_DESCRIBED
from cv3jax.checkpoints import cascades
from cv3jax.distributed.mesh import make_mesh
from cv3jax.sampling import few, resumable


def micro(mesh=None):
    _, description = cascades.read_cascade(golden_models.converted("micro"))
    return memory.planned(description, (), mesh, "auto")


@pytest.fixture
def no_load(monkeypatch):
    for module in (few, resumable):
        monkeypatch.setattr(module, "load", lambda *_, **__: pytest.fail("loaded"))


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize("many", [False, True])
def test_a_size_beyond_memory_is_refused_with_the_figure(many, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "room", lambda mesh: 5_000_000)
    prompts = tmp_path / "p.txt"
    prompts.write_text("a star\n")
    what = ["--prompts", str(prompts)] if many else ["--prompt", "a star"]
    argv = ["--checkpoint", str(golden_models.converted("micro")), *what]
    said = refused("sample", [*argv, "--out", str(tmp_path / "out")], capsys, "GB a device")
    assert said is None
    assert not list(tmp_path.glob("out/*.png"))


def test_what_is_far_from_full_is_not_compiled(monkeypatch):
    monkeypatch.setattr(memory, "taken", lambda program: pytest.fail(program.what))
    memory.check_fits(micro(), memory.Pictures(2, 16, 1))


def test_xla_decides_where_the_rough_figure_does_not(monkeypatch):
    cascade, asked = micro(), []
    monkeypatch.setattr(memory, "taken", lambda program: asked.append(program.what) or 0)
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cascade.params))
    monkeypatch.setattr(memory, "room", lambda mesh: held)
    memory.check_fits(cascade, memory.Pictures(2, 16, 1))
    assert asked == [
        "the base stage at 16²",
        "decoding pictures of 16²",
        "encoding pictures of 32²",
        "the relay stage at 32²",
        "decoding pictures of 32²",
    ]


def test_what_is_given_is_not_drawn():
    drawn = memory.Pictures(1, 16, 2, given=True)
    names = [p.what for p in memory.programs(micro(), drawn, AS_DESCRIBED, AS_DESCRIBED)]
    assert names[0] == "encoding pictures of 32²"
    assert names[-1] == "decoding pictures of 64²"
    assert len(names) == 6


@pytest.mark.parametrize("mesh", [None, {"data": 2, "context": 2}])
def test_the_programs_are_those_that_draw(mesh):
    """The shapes that are compiled are those that a cascade calls the same programs with."""
    mesh = mesh and make_mesh(**mesh, devices=jax.devices()[:4])
    cascade = micro(mesh)
    source = golden_models.converted("micro")
    loaded = pipeline.load(source, mesh=mesh)
    found = list(memory.programs(cascade, memory.Pictures(2, 32, 0), AS_DESCRIBED, AS_DESCRIBED))
    sampler, decoder = found
    latents = jax.ShapeDtypeStruct((2, *loaded.latent(32)), np.float32)
    assert sampler.args[3].shape == latents.shape == decoder.args[1].shape
    theirs = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), loaded.params)
    ours = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), cascade.params)
    assert theirs == ours
    keys = jax.vmap(jax.random.key)(np.zeros(2, np.uint32))
    noise = loaded.noise(keys, 32)
    assert noise.sharding == sampler.args[3].sharding or mesh is None
    assert loaded.text(["a", "b"]).shape == sampler.args[1].shape


def test_xlas_figure_is_that_of_the_decoder():
    """Rough and planned figures are of one size; twice the side is four times as much."""
    plans = []
    for side in (64, 128):
        program = memory._decoder(micro(), 1, side)
        plans.append((memory.taken(program), program.rough))
    for planned, rough in plans:
        assert 0.1 < planned / rough < 10
    assert 3 < plans[1][0] / plans[0][0] < 5


def test_room_is_shared_by_devices_of_one_host():
    alone, eight = memory.room(None), memory.room(make_mesh(data=8))
    assert 0 < eight < alone
    assert eight == pytest.approx(alone / 8, rel=0.2)
