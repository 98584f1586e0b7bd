"""Adapters that orders ask for: merged into parameters of their own, without compiling anything.

The programs of the lanes take parameters as arguments, so that a set of adapters is a set of
parameters. Those of the sets that were used last stay on the devices; only the changed kernels take
memory. Merging is one program for each shape of kernel, compiled at the start, with the adapter's
matrices as arguments, padded to one rank.
"""

import collections
import time
from collections.abc import Iterable, Mapping
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
        self._held: dict[str, collections.OrderedDict[LoraSet, Any]] = {
            stage: collections.OrderedDict() for stage in self.ranks
        }
        self.seconds: dict[str, float] = {}  # of merging one adapter, by stage, after `reserve`

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
        for stage in self.ranks:
            for number in range(self._keep):
                everything = tuple((name, float(number)) for name in self._leaves)
                self.merge((stage,), everything)

    def of(self, part: str, loras: LoraSet) -> Any:
        """Return the parameters of a part with a set of adapters; without its own, the cascade's.

        Sets that differ only in the adapters of other stages have the same parameters here.
        """
        if not (own := of_stage(loras, part, self.stages)):
            return self._params[part]
        held = self._held[part]
        if own in held:
            held.move_to_end(own)
        else:
            while len(held) >= self._keep:  # before the next one takes memory
                held.popitem(last=False)
            held[own] = self._merged(part, own)
        return held[own]

    def merge(self, parts: Iterable[str], loras: LoraSet) -> None:
        """Merge what these parts lack of a set, wait until it is done, and note the seconds."""
        for part in parts:
            own = of_stage(loras, part, self.stages)
            if own and own not in self._held[part]:
                began = time.monotonic()
                jax.block_until_ready(self.of(part, loras))
                self.seconds[part] = (time.monotonic() - began) / len(own)

    def missing(self, *sets: LoraSet) -> float:
        """Return the seconds that merging takes before all these sets can draw."""
        total = 0.0
        for stage, seconds in list(self.seconds.items()):
            due = {of_stage(loras, stage, self.stages) for loras in sets}
            total += seconds * sum(len(own) for own in due if own not in self._held[stage])
        return total

    def facts(self) -> dict[str, Any]:
        """Return what `/v1/capabilities` says of them."""
        return {"sets": self._keep, "ranks": dict(self.ranks), "bytes": self.nbytes}

    def _merged(self, stage: str, loras: LoraSet) -> Any:
        params = self._params[stage]
        for name, weight in loras:
            changed = {}
            for path, node in self._leaves[name].items():
                weighed = {**node, SCALE: node[SCALE] * np.float32(weight)}
                kernel = trees.at(params, path)
                changed[path] = self._programs[_key(kernel, node)](kernel, weighed)
            params = trees.replaced(params, changed)
        return params


def of_stage(loras: LoraSet, stage: str, stages: Mapping[str, str]) -> LoraSet:
    """Return those of a set that change this stage. stages: of each adapter, by its name."""
    return tuple(one for one in loras if stages.get(one[0]) == stage)


def _key(kernel: jax.Array, node: Mapping[str, np.ndarray]) -> Any:
    shapes = tuple(sorted((key, value.shape) for key, value in node.items()))
    return kernel.shape, kernel.dtype, kernel.sharding, shapes
