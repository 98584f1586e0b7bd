"""What can be said of adapters without the weights they change: ranks, norms and likeness.

The change of a layer is s · up · down; its norms and products are computed from the small matrices,
without the large one. What DoRA's magnitudes do beside it depends on the weights.
"""

import math
import re
from collections import Counter
from typing import Any

import numpy as np

from cv3jax.adapters.adapter import Adapter, changes
from data_pipeline.io.errors import InputError

# what says where a layer is: blocks, and their parts in diffusers' names
_PLACE = re.compile(
    r"(input_blocks|middle_block|output_blocks|down_blocks|mid_block|up_blocks)\."
    r"((attentions|resnets|transformer_blocks)\.|\d+\.)*"
)


def product(one: Adapter, other: Adapter, name: str) -> float:
    """Return the inner product ⟨ΔA, ΔB⟩ of a layer's changes in two adapters."""
    (up_a, down_a), (up_b, down_b) = one.layers[name].matrices(), other.layers[name].matrices()
    inner = float(np.sum((up_a.T @ up_b) * (down_a @ down_b.T)))
    return one.scale(name) * other.scale(name) * inner


def norm(adapter: Adapter, name: str) -> float:
    """Return the Frobenius norm of a layer's change."""
    return math.sqrt(max(product(adapter, adapter, name), 0.0))


def layers_of(adapter: Adapter) -> list[dict[str, Any]]:
    """Return what is known of each layer, the layers in the order of the file."""
    return [
        {
            "layer": name,
            "weight": list(layer.shape),
            "rank": layer.rank,
            "parameters": layer.down.size
            + layer.up.size
            + (layer.magnitude is not None) * len(layer.up),
            "alpha": layer.alpha,
            "scale": adapter.scale(name),
            "norm": norm(adapter, name),
            "dora": layer.magnitude is not None,
            "dtype": layer.down.dtype.name,
            "changes": changes(layer),
        }
        for name, layer in adapter.layers.items()
    ]


def kind_of(name: str) -> str:
    """Return the kind of a layer, its name below its block: "attn1.to_q", "in_layers.2"."""
    kind = _PLACE.sub("", name)
    return name if kind.isdigit() else kind


def by_kind(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of layers, summed up by kind: count, ranks, and the root mean square norm."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(kind_of(row["layer"]), []).append(row)
    return [
        {
            "kind": kind,
            "layers": len(own),
            "ranks": sorted({row["rank"] for row in own}),
            "norm": math.sqrt(sum(row["norm"] ** 2 for row in own) / len(own)),
        }
        for kind, own in sorted(kinds.items())
    ]


def counted_ranks(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return how many layers have each rank, by the rank as text."""
    return {str(rank): n for rank, n in sorted(Counter(row["rank"] for row in rows).items())}


def compared(one: Adapter, other: Adapter) -> dict[str, Any]:
    """Return how alike two adapters are, layer by layer and as a whole.

    `difference` is ‖ΔA − ΔB‖ / ‖ΔA‖, and `cosine` is ⟨ΔA, ΔB⟩ / (‖ΔA‖ ‖ΔB‖); None where a norm is
    zero. A layer that one of both lacks is a change of zero there.

    Raises InputError where a layer's weight has another shape in each.
    """
    shared = [name for name in one.layers if name in other.layers]
    rows, dots = [], 0.0
    for name in shared:
        a, b = one.layers[name], other.layers[name]
        if a.shape != b.shape:
            raise InputError(
                f"{name} changes a weight of {list(a.shape)} in the first and {list(b.shape)} in"
                " the second; they are of different models"
            )
        dot, norms = product(one, other, name), (norm(one, name), norm(other, name))
        dots += dot
        rows.append({"layer": name, "norms": list(norms), **_likeness(dot, *norms)})
    whole = [math.sqrt(sum(norm(each, n) ** 2 for n in each.layers)) for each in (one, other)]
    return {
        "layers": rows,
        "first_only": [name for name in one.layers if name not in other.layers],
        "second_only": [name for name in other.layers if name not in one.layers],
        "norms": whole,
        **_likeness(dots, *whole),
    }


def _likeness(dot: float, first: float, second: float) -> dict[str, float | None]:
    square = max(first**2 + second**2 - 2 * dot, 0.0)
    return {
        "difference": math.sqrt(square) / first if first else None,
        "cosine": dot / (first * second) if first and second else None,
    }
