"""An adapter as a tree beside a UNet's parameters, and back.

The tree has the paths of the UNet's modules. In the place of each adapted kernel are
{"lora_down": [in, r] or [kh, kw, in, r], "lora_up": [r, out] or [1, 1, r, out], "lora_scale": []}
and, with DoRA, "lora_magnitude": [out]. The layers of a scanned stack have one leading axis on
each. There, a layer without an adapter is zeros, a smaller rank is padded with zeros, and a layer
without DoRA beside some that have it has a magnitude of `NO_DORA`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cv3jax.adapters.adapter import SGM, Adapter, Layer, listed
from cv3jax.adapters.naming import SIZES, Sizes, modules, named
from cv3jax.checkpoints.description import StageDescription
from cv3jax.models.adapters import DOWN, MAGNITUDE, NO_DORA, SCALE, UP
from cv3jax.weights.names import Entry
from data_pipeline.io.errors import InputError

KERNEL = "kernel"
BUCKETS = (4, 8, 16, 32, 64, 128, 256)  # ranks to which those of adapters are padded


class Spec(NamedTuple):
    """What a tree does not show of a layer.

    dtypes: of down, up and magnitude in its file. dora: whether it has a magnitude.
    """

    rank: int
    alpha: float
    dtypes: tuple[str, str, str] = ("float32",) * 3
    dora: bool = False


def specs_of(adapter: Adapter) -> dict[str, Spec]:
    """Return what the way back from a tree takes, by the name of each layer."""
    return {
        name: Spec(one.rank, one.alpha, _dtypes(one), one.magnitude is not None)
        for name, one in adapter.layers.items()
    }


def _dtypes(layer: Layer) -> tuple[str, str, str]:
    third = layer.up if layer.magnitude is None else layer.magnitude
    return layer.down.dtype.name, layer.up.dtype.name, third.dtype.name


def specs_in(tree: Mapping[str, Any], stage: StageDescription, alpha: float) -> dict[str, Spec]:
    """Return the specs of a tree all of whose layers have the rank of its leaves, and one alpha.

    So has a tree that training began with; its layers are written as float32.
    """
    specs = {}
    for name, entry in modules(Sizes.of(stage)).items():
        node = tree
        for part in entry.path[:-1]:
            node = node.get(part, {})
        if DOWN in node:
            specs[name] = Spec(node[DOWN].shape[-1], alpha, dora=MAGNITUDE in node)
    return specs


def bucket_of(ranks: Iterable[int]) -> int:
    """Return the smallest of BUCKETS that holds all ranks, or the largest rank above them."""
    most = max(ranks)
    return next((one for one in BUCKETS if one >= most), most)


def fitted(adapter: Adapter, stage: StageDescription, where: str) -> Adapter:
    """Return an adapter with sgm's names whose layers all have a place in a stage.

    Raises InputError, which names the layers, where it was made for another model.
    """
    sizes = Sizes.of(stage)
    adapter = named(adapter, SGM, sizes, where)
    shapes, table = shapes_of(stage), modules(sizes)
    if lost := [name for name in adapter.layers if name not in table]:
        raise InputError(
            f"{where} was made for another model: the {stage.kind} has no {listed(lost, 'layer')}"
        )
    for name, layer in adapter.layers.items():
        if layer.shape != shapes[name]:
            raise InputError(
                f"{where} was made for another model: {name} changes a weight of"
                f" {list(layer.shape)}, but the {stage.kind}'s is {list(shapes[name])}"
            )
    return adapter


def shapes_of(stage: StageDescription) -> dict[str, tuple[int, ...]]:
    """Return the shape, in PyTorch's layout, of each weight that an adapter may change."""
    from cv3jax.cascade.parts import build_model, model_shapes
    from cv3jax.models.unet import UNet
    from cv3jax.weights.mapping import torch_shapes

    table = modules(Sizes.of(stage))
    params = model_shapes(build_model(UNet, stage.model), stage.text_width)
    shapes = torch_shapes(params, list(table.values()))
    return {name: tuple(shapes[entry.torch]) for name, entry in table.items()}


def at(tree: Any, path: Iterable[str]) -> Any:
    """Return what is at a path of nested dicts."""
    for name in path:
        tree = tree[name]
    return tree


def replaced(tree: Mapping[str, Any], changed: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return a tree with other leaves at some paths; what is not on them is shared with `tree`."""
    below: dict[str, dict[tuple[str, ...], Any]] = defaultdict(dict)
    made = dict(tree)
    for path, value in changed.items():
        if len(path) == 1:
            made[path[0]] = value
        else:
            below[path[0]][path[1:]] = value
    return {**made, **{name: replaced(tree[name], own) for name, own in below.items()}}


def to_tree(
    adapter: Adapter,
    stage: StageDescription,
    *,
    bucket: int | None = None,
    weight: float = 1.0,
    where: str = "the adapter",
) -> dict[str, Any]:
    """Return the tree of an adapter, of NumPy arrays in the types of its layers.

    bucket: the rank to which every layer is padded; by default, a stack's largest. weight: what
    the scale is multiplied by.

    Raises:
        InputError: a layer has no place in the stage, or a larger rank than the bucket.
    """
    adapter = fitted(adapter, stage, where)
    if bucket is not None and (most := max(one.rank for one in adapter.layers.values())) > bucket:
        raise InputError(f"{where} has the rank {most}, and may have {bucket}")
    table = modules(Sizes.of(stage))
    depth = defaultdict(int)
    for entry in table.values():
        depth[entry.path] += 1
    stacks: dict[tuple, dict[int | None, str]] = defaultdict(dict)
    for name in adapter.layers:
        stacks[table[name].path][table[name].layer] = name
    tree: dict[str, Any] = {}
    for path, names in stacks.items():
        rank = bucket or max(adapter.layers[name].rank for name in names.values())
        leaves = {
            place: _leaves(adapter, name, table[name], rank, weight)
            for place, name in names.items()
        }
        node = tree
        for part in path[:-2]:
            node = node.setdefault(part, {})
        node[path[-2]] = leaves[None] if None in leaves else _stacked(leaves, depth[path])
    return tree


def _leaves(
    adapter: Adapter, name: str, entry: Entry, rank: int, weight: float
) -> dict[str, np.ndarray]:
    """Return the leaves of one layer, padded to a rank."""
    layer = adapter.layers[name]
    lacking = [(0, rank - layer.rank)]
    down, up = (0, 1), (2, 3, 1, 0)
    if entry.layout == "conv":
        none = [(0, 0)]
        leaves = {
            DOWN: np.pad(layer.down.transpose(up), [*none * 3, *lacking]),
            UP: np.pad(layer.up.transpose(up), [*none * 2, *lacking, *none]),
        }
    else:
        leaves = {
            DOWN: np.pad(layer.down.transpose(down[::-1]), [(0, 0), *lacking]),
            UP: np.pad(layer.up.transpose(down[::-1]), [*lacking, (0, 0)]),
        }
    leaves[SCALE] = np.asarray(adapter.scale(name) * weight, np.float32)
    if layer.magnitude is not None:
        leaves[MAGNITUDE] = layer.magnitude
    return leaves


def _stacked(leaves: Mapping[int, dict[str, np.ndarray]], depth: int) -> dict[str, np.ndarray]:
    """Return the leaves of a stack; what a layer lacks is zeros, or NO_DORA."""
    made = {}
    for key in sorted({key for one in leaves.values() for key in one}):
        there = {place: one[key] for place, one in leaves.items() if key in one}
        example = next(iter(there.values()))
        dtype = jnp.result_type(*(one.dtype for one in there.values()))
        fill = NO_DORA if key == MAGNITUDE else 0
        made[key] = np.full((depth, *example.shape), fill, dtype)
        for place, one in there.items():
            made[key][place] = one
    return made


def from_tree(
    tree: Mapping[str, Any],
    specs: Mapping[str, Spec],
    stage: StageDescription,
    *,
    rslora: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Adapter:
    """Return the adapter of a tree, of any arrays; the inverse of `to_tree`.

    specs: the layers that the tree has, each with what the tree does not show. The header gets the
    sizes of the stage's UNet.

    Raises KeyError where the tree lacks a layer.
    """
    sizes, layers = Sizes.of(stage), {}
    table = modules(sizes)
    for name, spec in specs.items():
        entry, node = table[name], tree
        for part in entry.path[:-1]:
            node = node[part]
        own = {
            key: np.asarray(value) if entry.layer is None else np.asarray(value)[entry.layer]
            for key, value in node.items()
            if key in (DOWN, UP) or (key == MAGNITUDE and spec.dora)
        }
        layers[name] = _layer(own, entry, spec)
    own_metadata = {**(metadata or {}), SIZES: sizes.to_json()}
    return Adapter(layers, stage.kind, rslora, own_metadata)


def _layer(own: Mapping[str, np.ndarray], entry: Entry, spec: Spec) -> Layer:
    order = (3, 2, 0, 1) if entry.layout == "conv" else (1, 0)
    down, up = own[DOWN].transpose(order)[: spec.rank], own[UP].transpose(order)[:, : spec.rank]
    dtypes = [jnp.dtype(name) for name in spec.dtypes]
    down, up = (
        np.ascontiguousarray(one.astype(dtype))
        for one, dtype in zip((down, up), dtypes, strict=False)
    )
    magnitude = own[MAGNITUDE].astype(dtypes[2]) if MAGNITUDE in own else None
    return Layer(down, up, spec.alpha, magnitude)


def leaves_of(tree: Mapping[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return {path of a kernel: the leaves of its adapter}."""
    found: dict[tuple[str, ...], dict[str, Any]] = defaultdict(dict)

    def walk(node: Mapping[str, Any], path: tuple[str, ...]) -> None:
        if DOWN in node:
            found[(*path, KERNEL)] = dict(node)
            return
        for name, below in node.items():
            walk(below, (*path, name))

    walk(tree, ())
    return dict(found)


def ranks_text(ranks: Iterable[int]) -> str:
    """Return ranks for people, such as "8" or "4..16"."""
    low, high = min(known := list(ranks)), max(known)
    return f"{low}" if low == high else f"{low}..{high}"
