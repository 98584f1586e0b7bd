"""Adapters in a loaded cascade: which stage each changes, and what records say of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from cv3jax.adapters import formats, trees
from cv3jax.adapters.adapter import Adapter
from cv3jax.adapters.digest import digest_of
from cv3jax.adapters.given import FLAG, LoraFile
from cv3jax.adapters.provenance import merged_in, trained_elsewhere
from cv3jax.cascade.pipeline import Cascade
from cv3jax.checkpoints.description import CascadeDescription, StageDescription
from cv3jax.checkpoints.description_checks import STAGES
from cv3jax.distributed import processes
from cv3jax.models.adapters import with_adapter
from data_pipeline.io.errors import InputError, counted
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

    def __str__(self) -> str:
        """Return what it is and where it goes, in one line."""
        layers = self.adapter.layers.values()
        ranks = sorted({layer.rank for layer in layers})
        shown = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        what = f"{counted(len(layers), 'layer')} of rank {shown}"
        used = f"weight {self.weight:g}" if self.weight else "weight 0, so it is left out"
        return f"{FLAG} {self.file}: {what} for the {self.stage}, {used}"

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
        type and its place on the devices. An adapter of weight 0 is left out. A line on stderr, in
        process 0, says of each what it is and where it goes.
        """
        for one in self.applied:
            if processes.main():
                say(f"cv3jax: {one}")
            if not one.weight:
                continue
            params, tree = cascade.params[one.stage], one.tree(self.description.stages[one.stage])
            for path, node in trees.leaves_of(tree).items():
                holder = trees.at(params, path[:-1])
                kernel = holder[path[-1]]
                with_it = jax.jit(with_adapter, out_shardings=kernel.sharding)
                holder[path[-1]] = with_it(kernel, node)
        return cascade


def applied_to(
    given: Sequence[LoraFile], description: CascadeDescription, source: str | Path | None = None
) -> Loras:
    """Return the adapters that --lora gave, each with its stage.

    That is the stage that --lora or the file names. Otherwise it is the base, or the relay where
    the layers fit the relay alone. source: the checkpoint of `description`, in whose weights none
    of them may be already; a line on stderr names those that were trained on another one.

    Raises:
        InputError: a file cannot be read or was made for another model, the stage is missing, or
            the same adapter is given twice.
    """
    found = [_applied(one, description) for one in given]
    _check_once([one for one in found if one.weight], source)
    for one, file in zip(found, given, strict=True):
        if source is not None and processes.main():
            metadata = one.adapter.metadata
            if said := trained_elsewhere(metadata, one.stage, source, file.where):
                say(f"cv3jax: {said}")
    return Loras(found, description)


def _check_once(applied: Sequence[Applied], source: str | Path | None) -> None:
    """Raise InputError on an adapter that is given twice, or is in the weights already."""
    merged = [] if source is None else merged_in(source)
    inside = {(one["stage"], one["sha256"]): one["file"] for one in merged}
    seen: dict[tuple[str, str], str] = {}
    for one in applied:
        key = (one.stage, one.sha256)
        if key in inside:
            raise InputError(
                f"{FLAG} {one.file}: the {one.stage} of {source} has it in its weights already (as"
                f" {inside[key]}); leave it out"
            )
        if key in seen:
            raise InputError(
                f"{FLAG} {one.file} and {seen[key]} are the same adapter for the {one.stage}; give"
                " it once, with the sum of the weights"
            )
        seen[key] = one.file


def _applied(given: LoraFile, description: CascadeDescription) -> Applied:
    adapter = formats.read(given.path, given.where)
    stage = given.stage or adapter.stage
    if stage is not None and stage not in description.stages:
        raise InputError(
            f"{given.where} is for the {stage}, but the checkpoint has"
            f" {', '.join(description.stages) or 'no stage'}"
        )
    if given.stage and adapter.stage and given.stage != adapter.stage:
        raise InputError(
            f"{given.where} is for the {adapter.stage}, as its header says, and not for the"
            f" {given.stage}; leave {given.stage}= out, or make a file for it with cv3jax lora"
            f" convert --stage {given.stage}"
        )
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
