"""Test the mesh, and how arrays are sharded over it."""

import collections
import dataclasses
import types

import jax
import numpy as np
import pytest

from cv3jax.cascade.parts import model_shapes
from cv3jax.distributed.mesh import AXES, device_groups, make_mesh, ring
from cv3jax.distributed.partitioning import names, spec
from cv3jax.models.unet import UNet


@dataclasses.dataclass(frozen=True)
class Device:
    """Stand in for a device that the machine does not have."""

    id: int = 0
    slice_index: int = 0
    process_index: int = 0
    coords: tuple | None = None
    platform: str = "cpu"
    device_kind: str = "none"


def sizes(**axes):
    """Stand in for a mesh that is too large for the machine: the rule only reads its shape."""
    return types.SimpleNamespace(shape={axis: axes.get(axis, 1) for axis in AXES})


def full_size():
    leaves = jax.tree.leaves_with_path(model_shapes(UNet(), 4096))
    return [(names(path), leaf.shape) for path, leaf in leaves]


def test_one_axis_takes_what_is_left():
    assert dict(make_mesh(data=-1, fsdp=2, tensor=2).shape) == {
        "data": 2,
        "fsdp": 2,
        "tensor": 2,
        "context": 1,
    }


def test_fsdp_takes_one_ring_where_it_may_choose():
    def torus(*shape):
        return [Device(coords=at) for at in np.ndindex(*shape)]

    assert [ring(torus(*shape)) for shape in ((16, 16, 1), (8, 8, 4), (1, 1, 1))] == [
        16,
        8,
        1,
    ]
    assert ring([types.SimpleNamespace(process_index=i // 4) for i in range(8)]) == 4
    assert dict(make_mesh(data=-1, fsdp=-1, tensor=2).shape) == {
        "data": 1,
        "fsdp": 4,
        "tensor": 2,
        "context": 1,
    }


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"data": 3}, "needs 3 devices, but there are 8"),
        ({"data": -1, "fsdp": 3}, "8 devices do not divide"),
        ({"data": -1, "tensor": -1}, "may be -1"),
        ({"data": 0}, "give positive sizes"),
        ({"data": 1, "fsdp": -1, "slices": 2}, "data = 1 does not divide over 2 slices"),
        ({"slices": 3}, "do not divide into 3 equal groups"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(axes, words):
    with pytest.raises(ValueError, match=words):
        make_mesh(**axes)


def test_only_the_data_axis_leaves_a_slice():
    mesh = make_mesh(data=-1, fsdp=2, slices=2)
    assert [{device.id // 4 for device in part.flat} for part in np.split(mesh.devices, 2)] == [
        {0},
        {1},
    ]
    said = [Device(id=i, slice_index=i % 2) for i in range(8)]
    assert [[device.id for device in group] for group in device_groups(said, -1)] == [
        [0, 2, 4, 6],
        [1, 3, 5, 7],
    ]
    with pytest.raises(ValueError, match="6 devices in 3 slices"):
        device_groups([Device(id=i, slice_index=i % 3) for i in range(6)], 2)


def test_what_fsdp_chooses_leaves_each_slice_its_data():
    devices = [Device(id=i, slice_index=i // 16, coords=(i % 4, i // 4 % 4, 0)) for i in range(32)]
    for context, fsdp in ((1, 4), (8, 2), (16, 1)):
        mesh = make_mesh(data=-1, fsdp=-1, context=context, slices=-1, devices=devices)
        assert dict(mesh.shape) == {
            "data": 32 // context // fsdp,
            "fsdp": fsdp,
            "tensor": 1,
            "context": context,
        }
        # of each index of data
        assert all(len({device.slice_index for device in part.flat}) == 1 for part in mesh.devices)
    with pytest.raises(ValueError, match="data = 1 does not divide over 2 slices"):
        make_mesh(data=-1, context=32, slices=-1, devices=devices)


@pytest.mark.parametrize("per_host", [1, 8])
def test_gpu_hosts_are_slices_unless_joined(per_host):
    """There are four machines of eight GPUs, with a process a machine or a process a GPU."""
    coords = [(i // 8, 0, i % 8) if per_host == 1 else (i // 8, i % 8, 0) for i in range(32)]
    devices = [
        Device(id=i, coords=at, platform="gpu", process_index=8 * at[0] + at[1])
        for i, at in enumerate(coords)
    ]
    assert dict(make_mesh(data=-1, fsdp=-1, slices=-1, devices=devices).shape) == {
        "data": 4,
        "fsdp": 8,
        "tensor": 1,
        "context": 1,
    }
    assert dict(make_mesh(data=-1, fsdp=-1, slices=1, devices=devices).shape) == {
        "data": 4,
        "fsdp": 8,
        "tensor": 1,
        "context": 1,
    }
    with pytest.raises(ValueError, match="data = 1 does not divide over 4 slices"):
        make_mesh(data=-1, fsdp=32, slices=-1, devices=devices)
    mesh = make_mesh(data=-1, fsdp=16, tensor=2, slices=1, devices=devices)
    assert dict(mesh.shape) == {"data": 1, "fsdp": 16, "tensor": 2, "context": 1}
    assert [device.id for device in mesh.devices.flat] == list(range(32))  # tensor within a host
    pairs = make_mesh(data=-1, fsdp=16, slices=2, devices=devices)
    assert [{device.coords[0] for device in part.flat} for part in pairs.devices] == [
        {0, 1},
        {2, 3},
    ]


@pytest.mark.parametrize(("fsdp", "left"), [(8, 0.001), (16, 0.001), (256, 0.04)])
def test_nearly_all_of_the_full_size_is_split(fsdp, left):
    whole = sum(
        np.prod(shape)
        for path, shape in full_size()
        if "fsdp" not in spec(path, shape, sizes(fsdp=fsdp))
    )
    assert whole / sum(np.prod(shape) for _, shape in full_size()) < left


def test_the_tensor_axis_splits_pairs_column_then_row():
    mesh, split = sizes(fsdp=4, tensor=2), collections.Counter()
    for path, shape in full_size():
        axes = tuple(spec(path, shape, mesh))
        if "tensor" in axes:
            at = axes.index("tensor") - len(shape)
            assert "blocks" in path
            assert shape[at] % 2 == 0
            assert at == (-2 if path[-2] in ("out", "ff_out") else -1)
            split[path[-2:]] += 1
        assert axes[:1] != ("fsdp",) or "blocks" not in path  # the layer axis
    stacks = sum(path[-2:] == ("ff_in", "kernel") for path, _ in full_size())
    wanted = {("ff_in", "kernel"): 1, ("ff_in", "bias"): 1, ("ff_out", "kernel"): 1}
    wanted |= {(name, "kernel"): 2 for name in ("q", "k", "v", "out")}
    assert split == {key: count * stacks for key, count in wanted.items()}
