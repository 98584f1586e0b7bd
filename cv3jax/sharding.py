"""The mesh and what lies where on it.

One rule by path and shape places the whole train state, moments and EMA included.
"""

import collections
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor", "context")
BATCH = ("data", "fsdp")  # the batch axis is split over both
STACKED = ("blocks", "layers")  # scanned modules, whose leading axis is the layer
# elements from which a parameter is split: the gathers of smaller ones cost more than their memory
MIN_SIZE = 2**16
# the name that rematerialisation and compile reports know gathered parameters by
GATHERED = "gathered"


def make_mesh(
    *,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    context: int = 1,
    slices: int = 1,
    devices: list | None = None,
) -> Mesh:
    """A mesh of the four axes over all devices; one axis may be -1 and takes what is left.

    data and fsdp may be -1 together: fsdp then takes one `ring` of the devices, and data the rest.
    A gather around a ring is one: over more of a torus the TPU compiler makes it an all-reduce of
    zero-padded parts, of twice the bytes. `slices` > 1: the devices are that many groups joined by
    a slower network (-1: as many as they say), and data, the axis that communicates once a step, is
    split over them first; the other axes stay within a group. Fewer than they say: whole slices are
    joined, and with 1 any axis may leave a slice.

    Raises:
        ValueError: sizes that do not fit the devices.
    """
    devices = jax.devices() if devices is None else devices
    groups = device_groups(devices, slices)
    sizes = [data, fsdp, tensor, context]
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1 + (data == fsdp == -1):
        raise ValueError(
            "mesh axes must be positive, one of them (or data and fsdp) may be -1, not"
            f" {dict(zip(AXES, sizes, strict=True))}"
        )
    if data == fsdp == -1:
        sizes[1] = math.gcd(ring(groups[0]), max(len(groups[0]) // (tensor * context), 1))
    if -1 in sizes:
        known = -math.prod(sizes)
        if len(devices) % known:
            raise ValueError(
                f"{len(devices)} devices do not divide over mesh {dict(zip(AXES, sizes, strict=True))}"
            )
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} needs {math.prod(sizes)} devices, there are"
            f" {len(devices)}"
        )
    if sizes[0] % len(groups):
        right = f"take a multiple of {len(groups)} or -1, or join them with slices = 1"
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
    """The devices of a slice along its links; those of several slices one slice after the other, so
    that the last axes stay within.
    """
    if len({slice_of(device) for device in group}) > 1:
        return np.array(group, object).reshape(shape)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 4, devices=group).devices


def slice_of(device: Any) -> tuple[int, int]:
    """Which slice a device says it is of: of a TPU pod's, or of GPUs the partition, which is a host
    or the hosts that NVLink joins.
    """
    coords = getattr(device, "coords", None)
    return getattr(device, "slice_index", None) or 0, (
        coords[0] if coords and device.platform == "gpu" else 0
    )


def ring(devices: list) -> int:
    """How many devices of a slice the fastest links join in a circle: the longest axis of their
    torus, or else those of one host.
    """
    devices = [device for device in devices if slice_of(device) == slice_of(devices[0])]
    coords = [getattr(device, "coords", None) for device in devices]
    if all(coords):
        return max(len(set(axis)) for axis in zip(*coords, strict=True))
    return max(collections.Counter(device.process_index for device in devices).values())


def device_groups(devices: list, slices: int) -> list[list]:
    """`devices` by slice: as they say they lie (their hosts where that is all one), cut or joined
    to `slices` equal groups.
    """

    def place(device):
        return slice_of(device), device.process_index

    found = len(set(map(slice_of, devices)))
    slices = found if slices == -1 else slices
    if slices < 1 or len(devices) % slices or (slices % found and found % slices):
        raise ValueError(
            f"mesh slices = {slices}: {len(devices)} devices in {found} slices are not so many"
            " equal groups"
        )
    size = len(devices) // slices
    ordered = sorted(devices, key=place)  # stable: within a host the order stays
    return [ordered[i : i + size] for i in range(0, len(devices), size)]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over data and fsdp."""
    return NamedSharding(mesh, P(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_ways(mesh: Mesh) -> int:
    """Over how many devices the batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


# What the tensor axis splits, by the end of a kernel's path: columns of what projects to heads or
# to the wide feed-forward, rows of what projects back (arXiv 1909.08053 §3), so that each pair
# needs one reduction, at its end. The GEGLU's values and gates lie one after the other in one
# kernel, as in the released weights, so that its columns are cut into other parts than it computes
# in: one permutation more a block.
COLUMNS = ("q", "k", "v", "ff_in")
ROWS = ("out", "ff_out")
ATTENTION = ("self_attention", "cross_attention")


def tensor_axis(path: tuple[str, ...]) -> int | None:
    """Which axis of the parameter at `path` the tensor axis of the mesh splits, from the end; None
    where it splits none.
    """
    if STACKED[0] not in path or path[-1] not in ("kernel", "bias"):
        return None
    name, inside = path[-2], path[-3] in ATTENTION or path[-2].startswith("ff_")
    if inside and name in COLUMNS:
        return -1
    return -2 if inside and name in ROWS and path[-1] == "kernel" else None


def names(path) -> tuple[str, ...]:
    """The names along a path of jax's."""
    return tuple(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    )


def spec(path: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> P:
    """What lies where of the leaf at `path`: by the table above over tensor; then its largest other
    axis that |fsdp| divides over fsdp.

    Leaves under MIN_SIZE elements and those without such an axis are replicated. The layer axis of
    scanned modules is never split: every device needs every layer.
    """
    axes: list[str | None] = [None] * len(shape)
    ways, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    if math.prod(shape) >= MIN_SIZE or (tensor > 1 and len(shape) == 2):
        split = tensor_axis(path) if tensor > 1 else None
        if split is not None and -split <= len(shape) and shape[split] % tensor == 0:
            axes[split] = "tensor"
    if ways > 1 and math.prod(shape) >= MIN_SIZE:
        first = int(any(name in STACKED for name in path))
        free = [
            axis
            for axis in range(first, len(shape))
            if axes[axis] is None and shape[axis] % ways == 0
        ]
        if free:
            axes[max(free, key=lambda axis: shape[axis])] = "fsdp"
    return P(*axes) if any(axes) else P()


def context_problem(mesh: Mesh, rows: int, stages: int) -> str | None:
    """Why the context axis cannot split latents of `rows` in a UNet of `stages`, or None.

    Each device takes two rows or more of the lowest resolution, and all as many: a convolution of
    stride 2 that leaves one row on each of two devices comes out wrong (XLA's Shardy, jaxlib
    0.10.2).
    """
    ways, lowest = mesh.shape["context"], rows // 2 ** (stages - 1)
    if ways == 1 or (lowest % ways == 0 and lowest >= 2 * ways):
        return None
    most = max((n for n in range(1, lowest // 2 + 1) if lowest % n == 0), default=1)
    return (
        f"context={ways}: latents of {rows} rows have {lowest} at the UNet's lowest resolution, of"
        f" which each device takes two or more, all as many; give a context of {most}"
    )


def tree_specs(tree, mesh: Mesh):
    """`spec` of every leaf of `tree` (arrays or ShapeDtypeStructs)."""
    return jax.tree.map_with_path(lambda path, leaf: spec(names(path), leaf.shape, mesh), tree)


def tree_sharding(tree, mesh: Mesh):
    """A sharding for every leaf of `tree`, by `spec`: one rule for parameters, moments and EMA."""
    return jax.tree.map(
        lambda p: NamedSharding(mesh, p), tree_specs(tree, mesh), is_leaf=lambda x: isinstance(x, P)
    )


def make_constrain(mesh: Mesh):
    """The models' `constrain` under jit: activations [B, H, ...] or [B, H·W, ...] split by batch,
    and by height over context.
    """
    split = NamedSharding(mesh, P(BATCH, "context") if mesh.shape["context"] > 1 else P(BATCH))
    return lambda x: jax.lax.with_sharding_constraint(x, split)


class Layout(NamedTuple):
    """How a step is spread over the mesh: what each device holds of the parameters, and how it
    makes whole what it computes with.

    Left to itself the compiler may gather activations instead, or add up zero-padded gradients
    where it could scatter them; so the gathers and the reductions are written down, and only the
    tensor and context axes are the compiler's.
    """

    mesh: Mesh
    specs: Any  # of the parameters: a tree of PartitionSpec
    dtype: Any  # of the parts that are gathered, which is that of the computation

    def gather(self, path: tuple[str, ...], params: Any) -> Any:
        """The parameters at `path` made whole over fsdp, from inside `spread`.

        Their gradients come back as this device's part.

        `path` of scanned modules is that of one layer: their leading axis is gone.
        """
        specs = self.specs
        for name in path:
            specs = specs[name]
        first = int(any(name in STACKED for name in path))
        return jax.tree.map(lambda x, p: self._whole(x, tuple(p)[first:]), params, specs)

    def whole(
        self, params: Any, later: Callable[[tuple[str, ...]], bool] = lambda path: False
    ) -> Any:
        """`gather` of all parameters but those that the model gathers `later`, where it needs
        them.
        """
        return jax.tree.map_with_path(
            lambda path, x, p: x if later(names(path)) else self._whole(x, tuple(p)),
            params,
            self.specs,
        )

    def _whole(self, x: jax.Array, axes: tuple) -> jax.Array:
        return gather_axis(x, axes.index("fsdp"), self.dtype) if "fsdp" in axes else x

    def constrain(self, x: jax.Array) -> jax.Array:
        """The models' `constrain` inside `spread`, where the batch is a device's own: the height
        over context.
        """
        if self.mesh.shape["context"] == 1:
            return x
        return jax.lax.with_sharding_constraint(x, P(None, "context"))

    def spread(self, function: Callable) -> Callable:
        """`function(params, frozen, batch)` → arrays [B, ...], each device on its own part of the
        parameters and its own rows.
        """
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=(self.held(), P(), P(BATCH)),
            out_specs=P(BATCH),
            axis_names=self._manual(),
            check_vma=False,
        )

    def spread_gradient(self, function: Callable, frozen: Any = None) -> Callable:
        """`function(params, frozen, batch)` → (gradients like params, metrics) of a device's rows,
        made the means over the batch.

        frozen: how that lies, as specs, such as the `held` of a layout of its own; None: whole on
        each device.
        """
        ways = batch_ways(self.mesh)

        def local(params, frozen, batch):
            grads, metrics = function(params, frozen, batch)
            # what is split over fsdp was summed over it where it was gathered
            grads = jax.tree.map(
                lambda g, p: self._sum(g, ("data",) if "fsdp" in tuple(p) else BATCH) / ways,
                grads,
                self.specs,
            )
            return grads, jax.tree.map(lambda x: self._sum(x, BATCH) / ways, metrics)

        return jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(self.held(), P() if frozen is None else frozen, P(BATCH)),
            out_specs=(self.held(), P()),
            axis_names=self._manual(),
            check_vma=False,
        )

    def _sum(self, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        axes = tuple(axis for axis in axes if self.mesh.shape[axis] > 1)
        return jax.lax.psum(x, axes) if axes else x

    def _manual(self) -> set[str]:
        """The axes of `spread`: those of the batch, and the others where they are 1, so that the
        compiler has none to divide by.
        """
        return {axis for axis in AXES if axis in BATCH or self.mesh.shape[axis] == 1}

    def held(self) -> Any:
        """What a device holds of the parameters inside `spread`, as specs: as far as the axes of
        the batch go.
        """
        return jax.tree.map(
            lambda p: P(*(axis if axis in BATCH else None for axis in p)),
            self.specs,
            is_leaf=lambda x: isinstance(x, P),
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gather_axis(x: jax.Array, axis: int, dtype: Any) -> jax.Array:
    """All devices' parts of x along `axis`, as `dtype`: half the bytes in bfloat16.

    The gradient is summed in float32.
    """
    return _gather_forward(x, axis, dtype)[0]


def _gather_forward(x, axis, dtype):
    with jax.named_scope(GATHERED):  # by which a compile report tells parameters from activations
        return (
            checkpoint_name(
                jax.lax.all_gather(x.astype(dtype), "fsdp", axis=axis, tiled=True), GATHERED
            ),
            None,
        )


def _gather_backward(axis, dtype, _, cotangent):
    return (
        jax.lax.psum_scatter(
            cotangent.astype(jnp.float32), "fsdp", scatter_dimension=axis, tiled=True
        ),
    )


gather_axis.defvjp(_gather_forward, _gather_backward)
