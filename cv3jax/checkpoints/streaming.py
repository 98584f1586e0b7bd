"""Parameters that stay on disk: a tree of `Leaf`, each of which is read when it is needed.

They are read from orbax trees and written to orbax trees. orbax itself would hold every array of a
part at once, and while reading once more as encoded bytes (4.7 GB for 2.1 GB of arrays). A few at a
time take no more than the largest leaf, some hundred MB.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import type_handlers

from cv3jax.checkpoints.writing import checkpoint_path

AT_ONCE = 2**27  # bytes of small leaves that are written together
# bytes; in half precision, 318 of the 500 leaves of a released UNet are small (18 MB in all)
SMALL = 2**20
# bytes of a stored piece, which is the least that a device reads of a stacked leaf to get its shard
CHUNK = 2**26


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array on disk that `read()` brings into memory.

    Its shape and dtype are known before. What was read is not kept.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes in memory."""
        return self.size * self.dtype.itemsize


class _FewAtATime(type_handlers.NumpyHandler):
    """Writes leaves as orbax writes NumPy arrays, a few at a time.

    A group is one leaf or at most AT_ONCE bytes, and the next is read only when it is on disk.
    """

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)

    async def _background_serialize(self, values, infos, args=None):
        waiting = list(zip(values, infos, args, strict=True))
        while waiting:
            group, size = [waiting.pop(0)], 0
            while (
                waiting and (size := size + group[-1][0].nbytes) + waiting[0][0].nbytes <= AT_ONCE
            ):
                group.append(waiting.pop(0))
            leaves, *rest = zip(*group, strict=True)
            await super()._background_serialize([leaf.read() for leaf in leaves], *rest)


def handler() -> ocp.PyTreeCheckpointHandler:
    """Return the handler with which orbax saves a tree of `Leaf`."""
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=type_handlers.create_type_handler_registry((Leaf, _FewAtATime()))
    )


def save_args(tree: Any) -> ocp.args.PyTreeSave:
    """Return the arguments of that save."""
    return ocp.args.PyTreeSave(
        tree, save_args=jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK), tree)
    )


def open_tree(directory: str | Path, within: tuple[str, ...] = ()) -> dict:
    """Return the orbax tree at `directory`, or what is `within` it, as nested dicts of `Leaf`.

    The dtypes are as stored. Raises KeyError, ValueError.
    """
    path = checkpoint_path(directory)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
    for name in within:
        tree = tree[name]

    reader = _Reader(
        path,
        {
            within + names: math.prod(array.shape) * np.dtype(array.dtype).itemsize
            for names, array in walk(tree)
        },
    )

    def leaf(keys: tuple, array) -> Leaf:
        names = within + tuple(key.key for key in keys)
        return Leaf(tuple(array.shape), np.dtype(array.dtype), lambda: reader.read(names))

    return jax.tree.map_with_path(leaf, tree)


def restore(directory: Path, like: Any, within: tuple[str, ...]) -> Any:
    """Return what is `within` the orbax tree at `directory`, with the shardings of `like`.

    like: shapes, dtypes and shardings. Raises ValueError where the tree has other names or shapes,
    and KeyError where there is nothing.
    """
    stored = {path: leaf.shape for path, leaf in walk(open_tree(directory, within))}
    wanted = {path: tuple(leaf.shape) for path, leaf in walk(like)}
    for path in sorted(stored.keys() | wanted.keys()):
        if stored.get(path) != wanted.get(path):
            name = "/".join(path)
            raise ValueError(
                f"{name} is stored as {stored.get(path)}, but {wanted.get(path)} is expected"
            )
    item = like
    for name in reversed(within):
        item = {name: item}
    args = ocp.args.PyTreeRestore(
        item,
        restore_args=ocp.checkpoint_utils.construct_restore_args(item),
        partial_restore=True,
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        found = checkpointer.restore(directory, args=args)
    for name in within:
        found = found[name]
    return found


class _Reader:
    """Reads the leaves of one tree.

    orbax takes 40 ms to find one among the hundreds of leaves of a UNet, so the small ones are read
    together.
    """

    def __init__(self, path: Path, sizes: dict[tuple[str, ...], int]):
        self.path, self.small = path, [names for names, size in sizes.items() if size <= SMALL]
        self.held: dict[tuple[str, ...], np.ndarray] = {}

    def read(self, names: tuple[str, ...]) -> np.ndarray:
        if names not in self.held:
            self.held |= self._restore(self.small if names in self.small else [names])
        return self.held.pop(names)

    def _restore(self, wanted: list[tuple[str, ...]]) -> dict[tuple[str, ...], np.ndarray]:
        item: dict = {}
        for names in wanted:
            node = item
            for name in names[:-1]:
                node = node.setdefault(name, {})
            node[names[-1]] = 0
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            args = ocp.args.PyTreeRestore(item, restore_args=restore_args, partial_restore=True)
            return dict(walk(checkpointer.restore(self.path, args=args)))


def walk(tree: dict) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (path, leaf) of nested dicts."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from (((name, *path), leaf) for path, leaf in walk(value))
        else:
            yield (name,), value
