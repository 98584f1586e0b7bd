"""Convert between a flat dict of torch tensors and our nested parameters.

A table of `names.Entry` maps them. Arrays are NumPy's on both sides.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from cv3jax.checkpoints.streaming import Leaf
from cv3jax.weights.names import Entry
from data_pipeline.io.errors import InputError, counted

LISTED = 5  # most names in an error
_TO_OURS = {
    "conv": lambda w: w.transpose(2, 3, 1, 0),
    "dense": lambda w: w.T,
    "conv_dense": lambda w: w[:, :, 0, 0].T,
    "same": lambda w: w,
}
_TO_TORCH = {
    "conv": lambda w: w.transpose(3, 2, 0, 1),
    "dense": lambda w: w.T,
    "conv_dense": lambda w: w.T[:, :, None, None],
    "same": lambda w: w,
}


def torch_shapes(params: Any, entries: list[Entry]) -> dict[str, tuple[int, ...]]:
    """Return {torch name: torch shape} of nested parameters, also of ShapeDtypeStructs or leaves.

    Raises KeyError where one is missing.
    """
    shapes = {}
    for entry in entries:
        shape = _at(params, entry.path).shape
        # takes no memory
        example = np.broadcast_to(np.int8(0), shape if entry.layer is None else shape[1:])
        shapes[entry.torch] = _TO_TORCH[entry.layout](example).shape
    return shapes


def check_tensors(
    given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Raise InputError unless `given` has exactly the names and shapes of `wanted`.

    The message names the first LISTED differences.
    """
    missing = [f"{name} is missing" for name in wanted if name not in given]
    unexpected = [f"{name} is unexpected" for name in given if name not in wanted]
    shaped = [
        f"{name} has the shape {list(given[name])} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in given and tuple(given[name]) != tuple(shape)
    ]
    if problems := missing + unexpected + shaped:
        counts = (
            f"{counted(len(missing), 'tensor')} missing, {len(unexpected)} unexpected,"
            f" {len(shaped)} of another shape"
        )
        first = f" (the first {LISTED} of {len(problems)})" if len(problems) > LISTED else ""
        raise InputError(f"{where} does not fit: {counts}: {', '.join(problems[:LISTED])}{first}")


def stack(tensors: Mapping[str, Leaf], entries: list[Entry]) -> dict:
    """Return our nested parameters of {torch name: tensor}.

    They are leaves that read, transpose and stack their tensors when they are read. dtypes stay; a
    stack has the dtype that holds all of its tensors. Call `check_tensors` first.
    """
    stacks: dict[tuple, dict[int | None, tuple[str, Leaf]]] = defaultdict(dict)
    for entry in entries:
        stacks[entry.path][entry.layer] = (entry.layout, tensors[entry.torch])
    params: dict = {}
    for path, layers in stacks.items():
        node = params
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = (
            _one(*layers[None])
            if None in layers
            else _stacked([layers[i] for i in range(len(layers))])
        )
    return params


def _one(layout: str, tensor: Leaf) -> Leaf:
    shape = _TO_OURS[layout](np.broadcast_to(np.int8(0), tensor.shape)).shape
    return Leaf(shape, tensor.dtype, lambda: np.ascontiguousarray(_TO_OURS[layout](tensor.read())))


def _stacked(layers: list[tuple[str, Leaf]]) -> Leaf:
    dtype = np.dtype(jnp.result_type(*(tensor.dtype for _, tensor in layers)))
    shape = (len(layers), *_one(*layers[0]).shape)

    def read() -> np.ndarray:
        out = np.empty(shape, dtype)
        for place, (layout, tensor) in zip(out, layers, strict=True):
            place[...] = _TO_OURS[layout](tensor.read())
        return out

    return Leaf(shape, dtype, read)


def to_torch(params: Any, entries: list[Entry]) -> dict[str, np.ndarray]:
    """Return {torch name: array} of nested parameters, arrays or leaves: the inverse of `stack`.

    Each array is contiguous in torch's layout.
    """
    by_path: dict[tuple, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_path[entry.path].append(entry)
    tensors = {}
    for path, owners in by_path.items():
        value = _at(params, path)
        value = value.read() if isinstance(value, Leaf) else np.asarray(value)
        for entry in owners:
            own = value if entry.layer is None else value[entry.layer]
            # a copy, even of a contiguous array: a view would keep the whole stack in memory
            tensors[entry.torch] = np.array(_TO_TORCH[entry.layout](own), order="C")
    return {entry.torch: tensors[entry.torch] for entry in entries}


def _at(params: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        params = params[part]
    return params
