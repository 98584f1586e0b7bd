"""Test meshes and types: which are refused, and that they draw the same pictures."""

import golden_models
import jax
import numpy as np
import pytest

import cv3jax
from cv3jax.api import loading
from cv3jax.distributed.mesh import AXES, make_mesh

MICRO = golden_models.converted


@pytest.fixture(scope="module")
def spread():
    return cv3jax.Cascade.load(MICRO("micro"), mesh="data=4,fsdp=2")


def near(one, other):
    """Return whether two pictures differ by rounding alone."""
    return np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def test_a_mesh_of_eight_devices_draws_the_same_pictures(pipe, spread):
    given = {"seed": [3, 4, 5], "guidance": 2.0}
    prompts = ["a red star", "a blue circle", "a star"]
    alone, shared = pipe(prompts, **given), spread(prompts, **given)
    assert len(shared) == 3
    assert shared.stages["base"].shape == (3, 32, 32, 3)
    assert all(near(one, other) for one, other in zip(alone, shared, strict=True))
    assert not near(shared[0], shared[1])


def test_parts_take_fewer_rows_than_a_mesh_has_devices(pipe, spread):
    text = spread.text("a red star")
    assert text.shape[0] == 1
    assert np.allclose(text, pipe.text("a red star"), atol=1e-5)
    latents = spread.base(text, seed=3)
    assert np.allclose(latents, pipe.base(pipe.text("a red star"), seed=3), atol=1e-3)
    (image,) = spread.decode(latents)
    assert near(image, pipe.decode(np.asarray(latents))[0])
    assert np.allclose(spread.encode(image, seed=1), pipe.encode(image, seed=1), atol=1e-4)
    (large,) = spread.relay(text, image, seed=3)
    assert large.size == (64, 64)
    seen = []
    assert spread.upscale(image, "a", callback=seen.append).image.size == (64, 64)
    assert len(seen[0].preview()) == 1


def test_meshes_of_the_caller():
    devices = np.array(jax.devices()).reshape(2, 4, 1, 1)
    explicit = jax.sharding.Mesh(devices, AXES, axis_types=(jax.sharding.AxisType.Explicit,) * 4)
    mesh = loading.mesh_of(explicit)
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    assert mesh.devices.shape == (2, 4, 1, 1)
    assert loading.mesh_of(None) is None
    assert loading.mesh_of("data=2,fsdp=4") == make_mesh(data=2, fsdp=4)


@pytest.mark.parametrize(
    ("mesh", "line"),
    [
        (jax.sharding.Mesh(jax.devices(), ("batch",)), "a mesh with the axes batch: it needs data"),
        ("batch=8", "^mesh batch=8: give sizes for some of the axes data"),
        ("data=3", "data=3.*needs 3 devices"),
        ({"data": 8}, "mesh .*: give a jax.sharding.Mesh, or text"),
        (8, "mesh 8: give a jax.sharding.Mesh, or text"),
    ],
)
def test_other_meshes_are_refused(mesh, line):
    with pytest.raises(ValueError, match=line) as raised:
        cv3jax.Cascade.load(MICRO("micro"), mesh=mesh)
    assert "\n" not in str(raised.value)


def test_a_cascade_computes_in_the_type_that_is_asked_for(pipe):
    half = cv3jax.Cascade.load(MICRO("micro"), dtype="bfloat16")
    types = {str(x.dtype) for x in jax.tree.leaves(half.params["base"])}
    assert "bfloat16" in types
    assert {str(x.dtype) for x in jax.tree.leaves(pipe.params)} == {"float32"}
    text = half.text("a red star")
    assert np.allclose(text, pipe.text("a red star"), atol=0.2)
    assert not np.array_equal(text, pipe.text("a red star"))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"dtype": "float16"}, "dtype 'float16': give one of float32, bfloat16"),
        ({"attention": "flash"}, "attention 'flash': give one of"),
        ({"attention": ["auto"]}, "attention .*: give one of"),
    ],
)
def test_wrong_types_and_attentions_are_refused(given, line):
    with pytest.raises(ValueError, match=f"^{line}"):
        cv3jax.Cascade.load(MICRO("micro"), **given)
