"""The adapter that is nearest to a full fine-tune: the largest singular values of its change.

The singular values and vectors of a layer's difference are those of its smaller Gram matrix, in
float64: a matrix of 1280 × 10240 takes a second so.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from cv3jax.adapters.adapter import Adapter, Layer
from cv3jax.adapters.naming import SIZES, Sizes, modules
from cv3jax.checkpoints.description import StageDescription
from cv3jax.checkpoints.streaming import Leaf, walk
from data_pipeline.io.errors import InputError
from data_pipeline.io.progress import bar

SMALL = 1e-7  # singular values below this share of the largest are rounding errors


@dataclasses.dataclass(frozen=True)
class Cut:
    """How much of a layer is kept: at most `rank`, and no more than holds this share of energy."""

    rank: int
    energy: float = 1.0


class Extracted(NamedTuple):
    """What was extracted.

    Attributes:
        adapter: with sgm's names.
        layers: by name, its rank, and the share of its squared difference that it keeps.
        energy: the share of the squared difference of all its weights that is kept.
        outside: the share of the whole squared difference in arrays that no adapter holds, such as
            norms and biases.
        others: how many of those differ.
    """

    adapter: Adapter
    layers: dict[str, dict[str, float]]
    energy: float
    outside: float
    others: int


def nearest(matrix: np.ndarray, cut: Cut) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Return (up [out, r], down [r, in], energy kept, energy) of a matrix [out, in], in float64.

    Each has the root of the singular values. r may be 0.
    """
    wide = matrix.astype(np.float64)
    tall = wide.shape[0] > wide.shape[1]
    wide = wide.T if tall else wide
    squares, vectors = np.linalg.eigh(wide @ wide.T)
    squares, vectors = np.maximum(squares[::-1], 0), vectors[:, ::-1]
    total = float(squares.sum())
    if not total:
        return np.zeros((matrix.shape[0], 0)), np.zeros((0, matrix.shape[1])), 0.0, 0.0
    most = int((squares > SMALL**2 * squares[0]).sum())
    enough = int(np.searchsorted(np.cumsum(squares), cut.energy * total * (1 - 1e-12))) + 1
    rank = min(cut.rank, most, enough)
    roots = squares[:rank] ** 0.25
    left = vectors[:, :rank] * roots
    right = (vectors[:, :rank].T @ wide) / roots[:, None]
    up, down = (right.T, left.T) if tall else (left, right)
    return up, down, float(squares[:rank].sum()), total


def extract(
    tuned: Mapping[str, Any], original: Mapping[str, Any], stage: StageDescription, cut: Cut
) -> Extracted:
    """Return the adapter of a fine-tune against what it began from, float32, with alpha = rank.

    Args:
        tuned: the parameters of its UNet, nested leaves.
        original: those of the UNet that it was tuned from.
        stage: its description.
        cut: how much is kept.

    Raises:
        InputError: the two are not of one model, or do not differ in any weight.
    """
    ours, theirs = dict(walk(tuned)), dict(walk(original))
    shapes = [{path: tuple(leaf.shape) for path, leaf in each.items()} for each in (ours, theirs)]
    if differing := sorted(p for p in shapes[0].keys() | shapes[1].keys() if _differ(shapes, p)):
        raise InputError(
            f"--checkpoint and --original are of different models: {'/'.join(differing[0])}"
            f" ({len(differing)} arrays in all)"
        )
    sizes = Sizes.of(stage)
    table: dict[tuple, list] = {}
    for name, entry in modules(sizes).items():
        table.setdefault(entry.path, []).append((name, entry))
    layers, rows, kept, total, outside, others = {}, {}, 0.0, 0.0, 0.0, 0
    for path, difference in _differences(ours, theirs):
        if path not in table:
            square = float(np.sum(difference.astype(np.float64) ** 2))
            outside, others = outside + square, others + bool(square)
            continue
        for name, entry in table[path]:
            own = difference if entry.layer is None else difference[entry.layer]
            own = own.transpose(3, 2, 0, 1) if entry.layout == "conv" else own.T
            up, down, held, energy = nearest(own.reshape(len(own), -1), cut)
            kept, total = kept + held, total + energy
            if len(down):
                rank, ones = len(down), (1,) * (own.ndim - 2)
                down, up = down.reshape(rank, *own.shape[1:]), up.reshape(len(own), rank, *ones)
                down, up = np.float32(down), np.float32(up)
                layers[name] = Layer(np.ascontiguousarray(down), np.ascontiguousarray(up), rank)
                rows[name] = {"rank": rank, "energy": held / energy}
    if not layers:
        raise InputError(
            "--checkpoint and --original have the same weights, so there is nothing to extract;"
            " give the fine-tune and what it began from"
        )
    adapter = Adapter(layers, stage.kind, metadata={SIZES: sizes.to_json()})
    return Extracted(adapter, rows, kept / total, outside / (outside + total), others)


def _differ(shapes: list[dict], path: tuple) -> bool:
    return shapes[0].get(path) != shapes[1].get(path)


def _differences(
    ours: Mapping[tuple, Leaf], theirs: Mapping[tuple, Leaf]
) -> Iterator[tuple[tuple, np.ndarray]]:
    """Yield (path, difference in float32) of all arrays."""
    with bar(sum(leaf.size for leaf in ours.values()), "extract", "value") as shown:
        for path, leaf in ours.items():
            yield path, leaf.read().astype(np.float32) - theirs[path].read().astype(np.float32)
            shown.update(leaf.size)
