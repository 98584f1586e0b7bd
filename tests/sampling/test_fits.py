"""Test that pictures too large for the devices are refused before parameters are read."""

import dataclasses
import math
import sys
import types

import golden_models
import jax
import numpy as np
import pytest
from bad_input import refused

from cv3jax.cascade import memory, pipeline
from cv3jax.cascade.sampler_settings import AS_DESCRIBED
from cv3jax.cascade.sizes import Size
from cv3jax.cascade.stage_sampler import images_sharding
from cv3jax.checkpoints import cascades
from cv3jax.distributed.mesh import make_mesh
from cv3jax.sampling import few, resumable
from data_pipeline.io.errors import InputError


def squares(side, passes):
    return tuple(Size(side << n, side << n) for n in range(passes + 1))


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
    said = refused("sample", [*argv, "--out", str(tmp_path / "out")], capsys, "GB per device")
    assert said is None
    assert not list(tmp_path.glob("out/*.png"))


def test_what_is_far_from_full_is_not_compiled(monkeypatch):
    monkeypatch.setattr(memory, "taken", lambda program: pytest.fail(program.what))
    memory.check_fits(micro(), memory.Pictures(2, squares(16, 1)))


def test_xla_decides_where_the_rough_figure_does_not(monkeypatch):
    cascade, asked = micro(), []
    monkeypatch.setattr(memory, "taken", lambda program: asked.append(program.what) or 0)
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cascade.params))
    monkeypatch.setattr(memory, "room", lambda mesh: held + 1_300_000)
    memory.check_fits(cascade, memory.Pictures(2, squares(16, 1)))
    assert asked == [
        "the base stage at 16×16",
        "decoding pictures of 16×16",
        "encoding pictures of 32×32",
        "the relay stage at 32×32",
        "decoding pictures of 32×32",
    ]


def test_what_is_given_is_not_drawn():
    drawn = memory.Pictures(1, squares(16, 2), given=True)
    names = [p.what for p in memory.programs(micro(), drawn, AS_DESCRIBED, AS_DESCRIBED)]
    assert names[0] == "encoding pictures of 32×32"
    assert names[-1] == "decoding pictures of 64×64"
    assert len(names) == 6


class Recorded(pipeline.Cascade):
    """Record the arguments of a cascade's programs without drawing anything."""

    def record(self):
        self.calls, where = [], images_sharding(self.mesh) or jax.local_devices()[0]

        def program(like, dtype=np.float32):
            def call(*args):
                self.calls.append(args)
                return jax.device_put(np.zeros(like(args), dtype), where)

            return call

        plain = super().sampler
        self.encoder = program(lambda args: args[2].shape)
        self.decoder = program(lambda args: (len(args[1]), *self.pixels(args[1])), np.uint8)

        def sampler(*given):
            made, w = plain(*given)
            run = program(lambda args: args[3][0].shape)
            return made._replace(run=lambda *args: (run(*args),) * 2), w

        self.sampler = sampler

    def pixels(self, latents):
        return (*(self.vae.factor * side for side in latents.shape[1:3]), 3)


@pytest.mark.parametrize("mesh", [None, {"data": 2, "tensor": 2}, {"data": 1, "fsdp": 2}])
def test_the_programs_are_those_that_draw(mesh, monkeypatch):
    """The compiled programs must be those that a cascade calls.

    An argument with another sharding, or on no particular device, would need a second compilation.
    """
    count = math.prod((mesh or {}).values())
    mesh = mesh and make_mesh(**mesh, devices=jax.devices()[:count])
    cascade = micro(mesh)
    found = list(
        memory.programs(cascade, memory.Pictures(2, squares(32, 1)), AS_DESCRIBED, AS_DESCRIBED)
    )
    monkeypatch.setattr(pipeline, "Cascade", Recorded)
    loaded = pipeline.load(golden_models.converted("micro"), mesh=mesh)
    loaded.record()
    loaded.generate(["a", "b"], [0, 1], final=True)
    assert len(found) == len(loaded.calls) == 5
    for program, args in zip(found, loaded.calls, strict=True):
        planned, called = jax.tree.leaves(program.args), jax.tree.leaves(args)
        for ours, theirs in zip(planned, called, strict=True):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), program.what
            free = ours.sharding is None or not getattr(ours, "committed", True)
            assert free != theirs.committed, program.what
            assert free or ours.sharding.is_equivalent_to(theirs.sharding, ours.ndim)
            if not free and mesh is not None and any(ours.sharding.spec):
                assert ours.sharding.spec == theirs.sharding.spec, program.what


def test_xlas_figure_is_that_of_the_decoder():
    """Twice the side needs four times the memory.

    The rough estimate is not below the size from which on XLA is asked.
    """
    plans = []
    for side in (64, 128):
        program = memory._decoder(micro(), 1, Size(side, side))
        plans.append((memory.taken(program), program.rough))
    for planned, rough in plans:
        assert planned <= rough / memory.NEAR
        assert rough <= 4 * planned
    assert 3 < plans[1][0] / plans[0][0] < 5


@pytest.mark.parametrize(
    ("model", "wide"),
    [
        ({}, 256),
        ({"channels": 64, "channel_mult": [1, 1], "patch": 4}, 64 / 16),
        ({"channels": 8, "channel_mult": [1, 16]}, 128),
        ({"channels": 8, "channel_mult": [1]}, 8),
        ({"channels": 8, "channel_mult": [1, 2, 16, 16]}, 32),
    ],
)
def test_the_rough_figure_is_of_the_widest_convolution(model, wide):
    cascade = micro()
    vae = dataclasses.replace(cascade.description.vae, model=model)
    cascade.description = dataclasses.replace(cascade.description, vae=vae)
    assert memory._coding(cascade, 3, Size(32, 32)) == memory.WIDE * wide * 3 * 32 * 32


def test_tiles_are_of_one_picture_on_each_device():
    size, alone = Size(64, 64), memory._coding(micro(), 1, Size(64, 64), 32)
    for mesh in (make_mesh(data=2, devices=jax.devices()[:2]), make_mesh(data=4, fsdp=2)):
        ways = math.prod(mesh.shape.values())
        assert memory._coding(micro(mesh), 4 * ways, size, 32) == alone
    assert alone < memory._coding(micro(), 1, size)


def test_a_context_that_cannot_split_a_stage_is_refused_without_a_parameter():
    mesh = make_mesh(data=1, context=2, devices=jax.devices()[:2])
    with pytest.raises(InputError, match=r"base stage: mesh context=2: latents of 4 rows "):
        memory.check_fits(micro(mesh), memory.Pictures(1, squares(32, 0)))


def test_pictures_and_latents_count_beside_parameters(monkeypatch):
    cascade = micro()
    monkeypatch.setattr(memory, "taken", lambda program: 0)
    held = memory.bytes_per_device(cascade.params)
    monkeypatch.setattr(memory, "room", lambda mesh: held + 700_000)
    memory.check_fits(cascade, memory.Pictures(1, squares(16, 1)))
    with pytest.raises(InputError, match="encoding pictures of 256×256"):
        memory.check_fits(cascade, memory.Pictures(1, squares(128, 1), given=True))


def test_what_xla_cannot_compile_is_over_what_there_is(monkeypatch):
    monkeypatch.setattr(memory, "taken", lambda program: None)
    monkeypatch.setattr(memory, "room", lambda mesh: 7_000_000)
    with pytest.raises(InputError, match=r"takes over 0\.0 GB per device, .* has 0\.0 GB;"):
        memory.check_fits(micro(), memory.Pictures(1, squares(16, 0)))


@pytest.mark.parametrize(
    ("platform", "stats", "left"),
    [
        ("gpu", {"bytes_limit": 70, "bytes_in_use": 20}, 50),
        ("gpu", {"bytes_limit": 70}, 70),
        ("gpu", None, sys.maxsize),  # of an allocator that keeps no account: nothing is refused
        ("tpu", {}, sys.maxsize),
        ("cpu", None, 1000),
    ],
)
def test_room_is_what_the_device_says(platform, stats, left, monkeypatch):
    device = types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    assert memory.room(None) == left


def test_room_is_shared_by_devices_of_one_host():
    alone, eight = memory.room(None), memory.room(make_mesh(data=8))
    assert 0 < eight < alone
    assert eight == pytest.approx(alone / 8, rel=0.2)
