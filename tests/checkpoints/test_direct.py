"""Test that a small part is read as orbax reads it, without orbax."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from cv3jax.checkpoints import cascades, direct
from cv3jax.distributed.mesh import make_mesh
from data_pipeline.io.errors import InputError

HERE = SingleDeviceSharding(jax.devices()[0])


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    rng = np.random.default_rng(0)
    tree = {
        "dense": {"kernel": rng.normal(size=(8, 3)).astype(np.float32), "bias": np.zeros(3)},
        "scale": np.float32(2.5),
        "half": jax.numpy.asarray(rng.normal(size=5), "bfloat16"),
    }
    place = tmp_path_factory.mktemp("cascade") / "base"
    cascades.save_part(place, jax.tree.map(jax.numpy.asarray, tree))
    return place


def like(sharding=HERE, kernel=(8, 3), **more):
    shape = jax.ShapeDtypeStruct
    return {
        "dense": {
            "kernel": shape(kernel, np.float32, sharding=sharding),
            "bias": shape((3,), np.float32, sharding=HERE),
        },
        "scale": shape((), np.float32, sharding=HERE),
        "half": shape((5,), "bfloat16", sharding=HERE),
        **more,
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_are_those_of_orbax(dtype, part):
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=HERE), like()
    )
    assert direct.is_small(part, wanted)
    ours, theirs = direct.read(part, wanted), cascades._restored(part, wanted, ())
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.dtype, a.sharding, a.committed) == (b.dtype, b.sharding, b.committed)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_large_and_sharded_parts_are_left_to_orbax(part, monkeypatch):
    assert direct.is_small(part, like())
    mesh = make_mesh(fsdp=2, devices=jax.devices()[:2])
    assert not direct.is_small(part, like(NamedSharding(mesh, P("fsdp"))))
    monkeypatch.setattr(direct, "SMALL", 100)
    assert not direct.is_small(part, like())
    assert not direct.is_small(part.parent, like())  # no store


@pytest.mark.parametrize("large", [False, True])
def test_another_model_is_one_line(large, part, monkeypatch):
    if large:
        monkeypatch.setattr(direct, "SMALL", 0)
    more = {"more": jax.ShapeDtypeStruct((1,), np.float32, sharding=HERE)}
    lacking = like()
    del lacking["scale"]
    for wrong in (like(kernel=(8, 4)), like(**more), lacking):
        with pytest.raises(InputError, match="does not hold the model that") as e:
            cascades.load_part(part, wrong)
        assert len(str(e.value).splitlines()) == 1
