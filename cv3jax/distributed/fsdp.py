"""Parameters sharded over fsdp: gathered where they are used, gradients scattered back."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cv3jax.distributed.mesh import AXES, BATCH, batch_ways
from cv3jax.distributed.partitioning import STACKED, names

# the name that rematerialisation and compile reports know gathered parameters by
GATHERED = "gathered"


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
