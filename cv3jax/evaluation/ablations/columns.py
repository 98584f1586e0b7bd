"""What the tables of an ablation have: which figures, and differences in words."""

import itertools
from collections.abc import Mapping
from typing import Any

from cv3jax.evaluation.page import headline


def columns_of(group: Mapping[str, Any]) -> list[str]:
    """Return the figures that a group's table has.

    Those are what stands for each metric, and all others that are not the same in all variants.
    """
    variants = [one["figures"] for one in group["variants"].values()]
    if not variants:
        return []
    common = [name for name in variants[0] if all(name in one for one in variants)]
    metrics = itertools.groupby(common, lambda name: name.partition(".")[0])
    heads = {headline([*some]) for _, some in metrics}
    return [
        name
        for name in common
        if name in heads or len({one[name]["value"] for one in variants}) > 1
    ]


def signed(value: float) -> str:
    """Return a difference with its sign, in three significant digits."""
    return "0" if value == 0 else f"{value:+.3g}"
