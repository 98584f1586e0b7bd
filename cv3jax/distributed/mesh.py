"""The mesh: its axes, the layout of devices on it, and the sharding of a batch."""

import collections
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax.distributed import AXES, parse_axes
from data_pipeline.io.errors import InputError


def choose_mesh(text: str | None, count: int) -> Mesh | None:
    """Return the mesh of `--mesh` over this process's devices.

    Without the flag, the `count` pictures are spread over as many devices as they fill; None for
    one device. Raises InputError.
    """
    devices = jax.local_devices()
    if text is None:
        return make_mesh(devices=devices[:count]) if min(len(devices), count) > 1 else None
    sizes = parse_axes(text)
    try:
        return make_mesh(**{"data": 1 if -1 in sizes.values() else -1, **sizes}, devices=devices)
    except ValueError as e:
        raise InputError(f"--mesh {text}: {e}") from e


BATCH = ("data", "fsdp")  # the batch is sharded over both


def make_mesh(
    *,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    context: int = 1,
    slices: int = 1,
    devices: list | None = None,
) -> Mesh:
    """Return a mesh of the four axes over all devices; one axis may be -1 and takes the rest.

    data and fsdp may be -1 together: fsdp then takes one `ring` of the devices, and data the rest.
    A gather around a ring stays a gather; over more of a torus the TPU compiler turns it into an
    all-reduce of zero-padded parts, with twice the bytes.

    `slices` > 1: the devices are that many groups joined by a slower network; -1: as many as the
    devices report. data, the axis that communicates once per step, is split over them first, and
    the other axes stay within a group. With fewer slices than the devices report, whole slices are
    joined; with 1, any axis may leave a slice.

    Raises:
        ValueError: the sizes do not fit the devices.
    """
    devices = jax.devices() if devices is None else devices
    groups = device_groups(devices, slices)
    sizes = [data, fsdp, tensor, context]
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1 + (data == fsdp == -1):
        raise ValueError(
            f"the mesh {_shown(sizes)} is not possible; give positive sizes, of which one, or data"
            " and fsdp, may be -1"
        )
    if data == fsdp == -1:
        sizes[1] = math.gcd(ring(groups[0]), max(len(groups[0]) // (tensor * context), 1))
    if -1 in sizes:
        known = -math.prod(sizes)
        if len(devices) % known:
            raise ValueError(
                f"{len(devices)} devices do not divide over the mesh {_shown(sizes)}; give sizes"
                f" whose product divides {len(devices)}"
            )
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"the mesh {_shown(sizes)} needs {math.prod(sizes)} devices, but there are"
            f" {len(devices)}; give sizes whose product is {len(devices)}, or one size of -1"
        )
    if sizes[0] % len(groups):
        right = (
            f"give a multiple of {len(groups)}, or -1, or treat all devices as one slice with"
            " slices = 1"
        )
        raise ValueError(
            f"mesh data = {sizes[0]} does not divide over {len(groups)} slices; {right}"
        )
    within = (sizes[0] // len(groups), *sizes[1:])
    return Mesh(
        np.concatenate([_laid_out(within, group) for group in groups]),
        AXES,
        axis_types=(AxisType.Auto,) * 4,
    )


def _laid_out(shape: tuple[int, ...], group: list) -> np.ndarray:
    """Return the devices of a group in the shape of the mesh.

    Those of one slice follow its links. Those of several slices come one slice after the other, so
    that the last axes stay within a slice.
    """
    if len({slice_of(device) for device in group}) > 1:
        return np.array(group, object).reshape(shape)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 4, devices=group).devices


def slice_of(device: Any) -> tuple[int, int]:
    """Return which slice a device reports.

    For TPUs it is the slice of a pod. For GPUs it is the partition, which is a host or the hosts
    that NVLink joins.
    """
    coords = getattr(device, "coords", None)
    return getattr(device, "slice_index", None) or 0, (
        coords[0] if coords and device.platform == "gpu" else 0
    )


def ring(devices: list) -> int:
    """Return how many devices of a slice the fastest links join in a ring.

    It is the longest axis of a torus, or else the devices of one host.
    """
    devices = [device for device in devices if slice_of(device) == slice_of(devices[0])]
    coords = [getattr(device, "coords", None) for device in devices]
    if all(coords):
        return max(len(set(axis)) for axis in zip(*coords, strict=True))
    return max(collections.Counter(device.process_index for device in devices).values())


def _shown(sizes: list[int]) -> str:
    """Return the sizes of a mesh as --mesh takes them."""
    return ",".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))


def device_groups(devices: list, slices: int) -> list[list]:
    """Return `devices` by slice, cut or joined to `slices` equal groups.

    The slices are those that the devices report, or their hosts where they report only one. Raises
    ValueError where that many groups are not possible.
    """

    def place(device):
        return slice_of(device), device.process_index

    found = len(set(map(slice_of, devices)))
    slices = found if slices == -1 else slices
    if slices < 1 or len(devices) % slices or (slices % found and found % slices):
        raise ValueError(
            f"mesh slices = {slices}: {len(devices)} devices in {found} slices do not divide into"
            f" {slices} equal groups"
        )
    size = len(devices) // slices
    ordered = sorted(devices, key=place)  # stable: within a host the order stays
    return [ordered[i : i + size] for i in range(0, len(devices), size)]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch's rows, over data and fsdp."""
    return NamedSharding(mesh, P(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_ways(mesh: Mesh) -> int:
    """Return the number of devices over which a batch is sharded."""
    return math.prod(mesh.shape[axis] for axis in BATCH)
