"""Parameters sharded over fsdp: gathered where they are used, with gradients scattered back."""

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

# rematerialisation and compile reports identify gathered parameters by this name
GATHERED = "gathered"


class Layout(NamedTuple):
    """How a step is spread over the mesh: what each device holds, and how it gathers parameters.

    The compiler itself may gather activations instead, or sum zero-padded gradients where it could
    scatter them. So the gathers and the reductions are written out, and only the tensor and context
    axes are left to the compiler.
    """

    mesh: Mesh
    specs: Any  # of the parameters: a tree of PartitionSpec
    dtype: Any  # of gathered parameters, which is that of the computation

    def gather(self, path: tuple[str, ...], params: Any) -> Any:
        """Return the parameters at `path` gathered over fsdp, from inside `spread`.

        Their gradients come back as this device's shard. For scanned modules, `path` is that of one
        layer, without their leading axis.
        """
        specs = self.specs
        for name in path:
            specs = specs[name]
        first = int(any(name in STACKED for name in path))
        return jax.tree.map(lambda x, p: self._whole(x, tuple(p)[first:]), params, specs)

    def whole(
        self, params: Any, later: Callable[[tuple[str, ...]], bool] = lambda path: False
    ) -> Any:
        """Return all parameters gathered, except those that the model gathers `later`, on use."""
        return jax.tree.map_with_path(
            lambda path, x, p: x if later(names(path)) else self._whole(x, tuple(p)),
            params,
            self.specs,
        )

    def _whole(self, x: jax.Array, axes: tuple) -> jax.Array:
        if "fsdp" not in axes:
            return x
        # integers are frozen parameters, which stay as they are
        dtype = self.dtype if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype
        return gather_axis(x, axes.index("fsdp"), dtype)

    def constrain(self, x: jax.Array) -> jax.Array:
        """Shard activations by height over context: the models' `constrain` inside `spread`.

        There a batch holds a device's own rows only.
        """
        if self.mesh.shape["context"] == 1:
            return x
        return jax.lax.with_sharding_constraint(x, P(None, "context"))

    def spread(self, function: Callable, frozen: Any = None) -> Callable:
        """Return `function(params, frozen, batch)` → arrays [B, ...], spread over the mesh.

        Each device computes with its own shard of the parameters and its own rows. frozen: the
        specs of that argument, as for `spread_gradient`.
        """
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=(self.held(), P() if frozen is None else frozen, P(BATCH)),
            out_specs=P(BATCH),
            axis_names=self._manual(),
            check_vma=False,
        )

    def spread_gradient(self, function: Callable, frozen: Any = None) -> Callable:
        """Return `function(params, frozen, batch)` → (gradients, metrics), spread over the mesh.

        The function gets a device's rows, and its gradients and metrics become the means over the
        batch. frozen: the specs of that argument, such as the `held` of another layout; None for
        replicated.
        """
        ways = batch_ways(self.mesh)

        def local(params, frozen, batch):
            grads, metrics = function(params, frozen, batch)
            # a gradient that is sharded over fsdp was summed over it where the parameter was
            # gathered
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
        """Return the manual axes of `spread`: the batch's, and those of size 1.

        Axes of size 1 are included so that the compiler has none to divide by.
        """
        return {axis for axis in AXES if axis in BATCH or self.mesh.shape[axis] == 1}

    def held(self) -> Any:
        """Return the specs of what a device holds of the parameters inside `spread`.

        They have the axes of the batch only.
        """
        return jax.tree.map(
            lambda p: P(*(axis if axis in BATCH else None for axis in p)),
            self.specs,
            is_leaf=lambda x: isinstance(x, P),
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gather_axis(x: jax.Array, axis: int, dtype: Any) -> jax.Array:
    """Return all devices' shards of x along `axis`, as `dtype`; bfloat16 halves the bytes.

    The gradient is summed in float32.
    """
    return _gather_forward(x, axis, dtype)[0]


def _gather_forward(x, axis, dtype):
    with jax.named_scope(GATHERED):  # a compile report tells parameters from activations by it
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
