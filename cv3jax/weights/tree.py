"""Between a flat dict of torch tensors and our nested parameters, by a table of `names.Entry`. NumPy in, NumPy out."""

from collections import defaultdict

import numpy as np

from cv3jax.weights.names import Entry

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


def to_ours(tensors: dict[str, np.ndarray], entries: list[Entry]) -> dict:
    """{torch name: array} → nested float32 parameters. Raises KeyError naming the tensors that are missing or unknown."""
    names = {entry.torch for entry in entries}
    missing, unknown = sorted(names - tensors.keys()), sorted(tensors.keys() - names)
    if missing or unknown:
        raise KeyError(f"{len(missing)} tensors missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}")
    stacks: dict[tuple, dict] = defaultdict(dict)
    for entry in entries:
        stacks[entry.path][entry.layer] = _TO_OURS[entry.layout](np.asarray(tensors[entry.torch], np.float32))
    params: dict = {}
    for path, layers in stacks.items():
        node = params
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = layers[None] if None in layers else np.stack([layers[i] for i in range(len(layers))])
    return params


def to_torch(params: dict, entries: list[Entry]) -> dict[str, np.ndarray]:
    """The inverse of `to_ours`: nested parameters → {torch name: array}, each contiguous in torch's layout."""
    tensors = {}
    for entry in entries:
        value = params
        for part in entry.path:
            value = value[part]
        value = np.asarray(value) if entry.layer is None else np.asarray(value[entry.layer])
        tensors[entry.torch] = np.ascontiguousarray(_TO_TORCH[entry.layout](value))
    return tensors
