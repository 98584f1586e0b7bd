"""The variants of an ablation: what differs in each, and what draws and scores it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cv3jax.evaluation.drawing import Drawing
from cv3jax.evaluation.prompt_sets import PromptSet
from data_pipeline.io.errors import InputError


class Variant(NamedTuple):
    """A variant of an ablation.

    changes: the fields that it sets, by their dotted names. folder: named by them; variants of
    several groups that set the same fields share it. settings: all fields. drawing: what draws it,
    or None where that is not there, with the reason in `left_out`.
    """

    group: str
    name: str
    changes: dict[str, Any]
    folder: str
    settings: dict[str, Any]
    prompts: PromptSet
    metrics: tuple[str, ...]
    drawing: Drawing | None
    left_out: str = ""


class Scoring(NamedTuple):
    """What all variants share: the metrics' weights, the reference, and pictures per prompt."""

    weights: Path | None = None
    reference: Path | None = None
    num: int = 1


def by_group(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    """Return the variants by group, in their order.

    Raises InputError where two of a group have the same name, or differ in what is scored.
    """
    groups: dict[str, list[Variant]] = {}
    for one in variants:
        group = groups.setdefault(one.group, [])
        if any(one.name == other.name for other in group):
            raise InputError(f"sweep() has two variants {one.name!r} in the group {one.group!r}")
        first = group[0] if group else one
        if (one.prompts.sha256, one.metrics) != (first.prompts.sha256, first.metrics):
            raise InputError(
                f"the variant {one.name!r} of the group {one.group!r} has other prompts or metrics"
                f" than {first.name!r}; give it a group of its own"
            )
        group.append(one)
    return groups
