"""Adapters that orders ask for: merged into parameters of their own, without compiling anything.

The programs of the lanes take parameters as arguments, so that a set of adapters is a set of
parameters. Those of the sets that were used last stay on the devices; only the changed kernels take
memory. Merging is one program for each shape of kernel, compiled at the start, with the adapter's
matrices as arguments, padded to one rank.
"""

import collections
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cv3jax.adapters import trees
from cv3jax.adapters.applied import Applied
from cv3jax.cascade.memory import bytes_per_device
from cv3jax.cascade.pipeline import Cascade
from cv3jax.models.adapters import SCALE, with_adapter

LoraSet = tuple[tuple[str, float], ...]  # (name, weight) of each, in order
Leaves = dict[tuple[str, ...], dict[str, Any]]  # path of a kernel → leaves of an adapter


class ParamSets:
    """The parameters of a cascade with each set of adapters.

    Args:
        cascade: whose parameters they change.
        adapters: by the names that orders have.
        keep: the most sets whose parameters are kept.
    """

    def __init__(self, cascade: Cascade, adapters: Mapping[str, Applied], keep: int):
        """Pad the adapters of each stage to one rank. Nothing is compiled yet."""
        self._params, self._keep = cascade.params, keep
        self.stages = {name: one.stage for name, one in adapters.items()}
        self.ranks: dict[str, int] = {}  # by stage
        for stage in set(self.stages.values()):
            own = [one.adapter for one in adapters.values() if one.stage == stage]
            ranks = [layer.rank for adapter in own for layer in adapter.layers.values()]
            self.ranks[stage] = trees.bucket_of(ranks)
        self._leaves: dict[str, Leaves] = {}
        for name, one in adapters.items():
            described = cascade.description.stages[one.stage]
            tree = trees.to_tree(one.adapter, described, bucket=self.ranks[one.stage], where=name)
            self._leaves[name] = {
                path: {key: np.asarray(value, np.float32) for key, value in node.items()}
                for path, node in trees.leaves_of(tree).items()
            }
        self._programs: dict[Any, Any] = {}
        self._held: collections.OrderedDict[LoraSet, dict[str, Any]] = collections.OrderedDict()

    @property
    def nbytes(self) -> int:
        """The bytes on a device that sets take at most."""
        paths = {(self.stages[name], path) for name, own in self._leaves.items() for path in own}
        kernels = [trees.at(self._params[stage], path) for stage, path in paths]
        # one more while it is merged, or while a unit still reads one that is no longer kept
        return (self._keep + 1) * bytes_per_device(kernels)

    def compile(self) -> int:
        """Compile what merges any of the adapters. Returns the number of programs."""
        for name, own in self._leaves.items():
            for path, node in own.items():
                kernel = trees.at(self._params[self.stages[name]], path)
                if (key := _key(kernel, node)) not in self._programs:
                    jitted = jax.jit(with_adapter, out_shardings=kernel.sharding)
                    self._programs[key] = jitted.lower(kernel, node).compile()
        return len(self._programs)

    def reserve(self) -> None:
        """Fill the places of all sets with sets of all adapters, whose memory later ones take over.

        So what is free afterwards, on the devices, is free for everything else.
        """
        for number in range(self._keep):
            everything = tuple((name, float(number)) for name in self._leaves)
            self._held[everything] = self._merged(everything)
        jax.block_until_ready(list(self._held.values()))

    def of(self, part: str, loras: LoraSet) -> Any:
        """Return the parameters of a part with a set of adapters; without any, the cascade's."""
        if not loras or part not in self.ranks:
            return self._params[part]
        if loras in self._held:
            self._held.move_to_end(loras)
        else:
            while len(self._held) >= self._keep:  # before the next one takes memory
                self._held.popitem(last=False)
            self._held[loras] = self._merged(loras)
        return self._held[loras].get(part, self._params[part])

    def facts(self) -> dict[str, Any]:
        """Return what `/v1/capabilities` says of them."""
        return {"sets": self._keep, "ranks": dict(self.ranks), "bytes": self.nbytes}

    def _merged(self, loras: LoraSet) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, weight in loras:
            stage = self.stages[name]
            params = made.get(stage, self._params[stage])
            changed = {}
            for path, node in self._leaves[name].items():
                weighed = {**node, SCALE: node[SCALE] * np.float32(weight)}
                kernel = trees.at(params, path)
                changed[path] = self._programs[_key(kernel, node)](kernel, weighed)
            made[stage] = trees.replaced(params, changed)
        return made


def _key(kernel: jax.Array, node: Mapping[str, np.ndarray]) -> Any:
    shapes = tuple(sorted((key, value.shape) for key, value in node.items()))
    return kernel.shape, kernel.dtype, kernel.sharding, shapes
