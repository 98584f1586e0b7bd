"""Adapters in a loaded cascade: which stage each changes, and what records say of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from cv3jax.adapters import formats, trees
from cv3jax.adapters.adapter import Adapter
from cv3jax.adapters.digest import digest_of
from cv3jax.adapters.given import FLAG, LoraFile
from cv3jax.cascade.pipeline import Cascade
from cv3jax.checkpoints.description import CascadeDescription, StageDescription
from cv3jax.checkpoints.description_checks import STAGES
from cv3jax.models.adapters import with_adapter
from data_pipeline.io.errors import InputError
from data_pipeline.io.progress import say


@dataclasses.dataclass(frozen=True, eq=False)
class Applied:
    """An adapter with the stage that it changes, and its weight.

    Attributes:
        adapter: with sgm's names; all of its layers have a place in the stage.
        stage: the stage's name.
        weight: what its change is multiplied by; 0 leaves it out.
        file: the name of its file.
        sha256: of what it holds, whatever its format.
    """

    adapter: Adapter
    stage: str
    weight: float
    file: str
    sha256: str

    def tree(self, stage: StageDescription) -> dict[str, Any]:
        """Return the tree of `trees.to_tree`, with the weight in its scales.

        All layers have one rank, so that kernels of one shape share a program.
        """
        bucket = trees.bucket_of(layer.rank for layer in self.adapter.layers.values())
        return trees.to_tree(
            self.adapter, stage, bucket=bucket, weight=self.weight, where=self.file
        )

    def record(self) -> dict[str, Any]:
        """Return what a picture's record says of it."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "stage": self.stage,
            "weight": self.weight,
        }


class Loras:
    """The adapters of a command, in the order in which they were given."""

    def __init__(self, applied: Sequence[Applied], description: CascadeDescription):
        """Keep the adapters of a cascade."""
        self.applied, self.description = tuple(applied), description

    def records(self, stages: Sequence[str] = STAGES) -> list[dict[str, Any]]:
        """Return what records of pictures that these stages draw say of the adapters.

        Raises InputError on an adapter of another stage, which would do nothing.
        """
        for one in self.applied:
            if one.weight and one.stage not in stages:
                raise InputError(
                    f"{FLAG} {one.file} is for the {one.stage}, which does not draw these pictures;"
                    " leave it out"
                )
        return [one.record() for one in self.applied if one.weight]

    def change(self, cascade: Cascade) -> Cascade:
        """Put the adapters into the weights of a cascade that nobody else holds, and return it.

        One kernel after the other is replaced, so that only one is in memory twice; each keeps its
        type and its place on the devices. An adapter of weight 0 is left out.
        """
        for one in self.applied:
            if one.weight:
                tree = one.tree(self.description.stages[one.stage])
                _change(cascade.params[one.stage], tree)
        return cascade


def _change(params: dict[str, Any], tree: Mapping[str, Any]) -> None:
    """Replace the kernels of a tree of parameters, in place."""
    for name, node in tree.items():
        if trees.DOWN in node:
            kernel = params[name][trees.KERNEL]
            with_it = jax.jit(with_adapter, out_shardings=kernel.sharding)
            params[name][trees.KERNEL] = with_it(kernel, dict(node))
        else:
            _change(params[name], node)


def applied_to(given: Sequence[LoraFile], description: CascadeDescription) -> Loras:
    """Return the adapters that --lora gave, each with its stage.

    That is the stage that --lora or the file names. Otherwise it is the base, or the relay where
    the layers fit the relay alone.

    Raises:
        InputError: a file cannot be read or was made for another model, or the stage is missing.
    """
    return Loras([_applied(one, description) for one in given], description)


def _applied(given: LoraFile, description: CascadeDescription) -> Applied:
    adapter = formats.read(given.path, given.where)
    stage = given.stage or adapter.stage
    if stage is not None and stage not in description.stages:
        raise InputError(
            f"{given.where} is for the {stage}, but the checkpoint has"
            f" {', '.join(description.stages) or 'no stage'}"
        )
    if given.stage and adapter.stage and given.stage != adapter.stage:
        say(f"{given.where} says that it is for the {adapter.stage}; it is put into the {stage}")
    names = [stage] if stage else [name for name in STAGES if name in description.stages]
    name, fitted = _first_fit(adapter, names, description.stages, given.where)
    return Applied(fitted, name, given.weight, given.path.name, digest_of(fitted))


def _first_fit(
    adapter: Adapter, names: Sequence[str], stages: Mapping[str, StageDescription], where: str
) -> tuple[str, Adapter]:
    """Return the first stage that an adapter fits, and the adapter with sgm's names."""
    if not names:
        raise InputError(f"{where}: the checkpoint has no stage that an adapter could change")
    problem = None
    for name in names:
        try:
            return name, trees.fitted(adapter, stages[name], where)
        except InputError as e:
            problem = problem or e
    raise problem
