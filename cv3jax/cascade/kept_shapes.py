"""Shapes of parameters, kept beside the compiled programs, so that a second start traces no model.

Tracing the initialisation of a cascade's models takes as long as tracing its samplers. A file holds
the names, shapes and types of one model's arrays as JSON. Its name is a hash of the model's fields
and of everything that decides them: the code of the models, and the versions of JAX and flax.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from data_pipeline.io.bounded_json import RECORDS, load_json
from data_pipeline.io.files import replacing

FOLDER = "shapes"  # in the directory of JAX's compilation cache
_CODE = ("models", "cascade/parts.py", "diffusion/conditioning.py")  # of this package


def kept(fields: dict[str, Any], trace: Callable[[], Any]) -> Any:
    """Return nested dicts of ShapeDtypeStructs: what is kept for `fields`, or else trace().

    fields: everything that the result of `trace` depends on, but for code and versions. What was
    traced is kept where a compilation cache is on this machine, and can be written.
    """
    where = jax.config.jax_compilation_cache_dir
    if not where or "://" in where:
        return trace()
    path = Path(where) / FOLDER / f"{_key(fields)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):  # none yet, or a damaged one
        return _read(load_json(path, RECORDS))
    tree = trace()
    arrays = {
        jax.tree_util.keystr(names, simple=True, separator="/"): [list(one.shape), one.dtype.name]
        for names, one in jax.tree.leaves_with_path(tree)
    }
    with contextlib.suppress(OSError):  # then the next start traces again
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(arrays))
    return tree


def fields_of(model: Any, without: set[str]) -> dict[str, Any]:
    """Return the class and the fields of a flax module as JSON has them, but those of `without`."""
    fields = {one.name for one in dataclasses.fields(model)} - without
    return {
        "class": type(model).__name__,
        **{name: _plain(getattr(model, name)) for name in sorted(fields)},
    }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | tuple):
        return value
    return jnp.dtype(value).name


def _key(fields: dict[str, Any]) -> str:
    value = {**fields, "code": _code(), "x64": jax.config.jax_enable_x64}
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code() -> list[str]:
    """Return what the shapes of a model with given fields depend on."""
    package, digest = Path(__file__).parent.parent, hashlib.sha256()
    for name in _CODE:
        place = package / name
        for file in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            digest.update(file.read_bytes())
    versions = [importlib.metadata.version(name) for name in ("jax", "flax")]
    return [digest.hexdigest(), *versions]


def _read(arrays: Any) -> dict[str, Any]:
    """Return the tree of a file. Raises ValueError, TypeError where it is no such file."""
    if not isinstance(arrays, dict) or not arrays:
        raise ValueError("no object of arrays")
    tree: dict[str, Any] = {}
    for path, (shape, dtype) in arrays.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        if any(type(side) is not int for side in shape):
            raise ValueError("a shape is no list of whole numbers")
        node[last] = jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
    return tree
