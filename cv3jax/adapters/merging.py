"""The kernels that an adapter's tree changes, one by one, for those who hold them one by one."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from cv3jax.models.adapters import DOWN
from cv3jax.models.adapters import SCALE as SCALE
from cv3jax.models.adapters import changed as changed

KERNEL = "kernel"


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
