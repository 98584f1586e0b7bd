"""Checkpoints on a machine's own disk: what one process holds of a train state, in two files.

`shards.bin` has the bytes of each distinct shard of each array, one after the other. `index.json`
is written last, and has their places, their SHA-256, the position in the data and the run's record.
Nothing waits for another machine, so such a checkpoint takes the seconds of one local write.
"""

import concurrent.futures
import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipeline.io.bounded_json import OWN, load_json, parse_json

SHARDS, INDEX, PARTIAL = "shards.bin", "index.json", ".partial"
THREADS = 8


class Shard(NamedTuple):
    """A part of an array."""

    name: str  # of the array, its path in the tree
    bounds: tuple[tuple[int, int], ...]  # first and one past the last element, of each axis
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the part."""
        return tuple(stop - start for start, stop in self.bounds)

    @property
    def size(self) -> int:
        """Return its bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def shards_of(like: Any) -> list[Shard]:
    """Return the distinct shards of this process, of ShapeDtypeStructs with shardings, in order."""
    found = []
    for path, leaf in jax.tree.flatten_with_path(plain(like))[0]:
        places = leaf.sharding.addressable_devices_indices_map(leaf.shape).values()
        name, bounds = jax.tree_util.keystr(path), {_bounds(index, leaf.shape) for index in places}
        found += [Shard(name, each, str(leaf.dtype)) for each in bounds]
    return sorted(found)


def name_of(shards: list[Shard]) -> str:
    """Return the name of a set of shards: two processes with the same name hold the same ones."""
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()[:16]


def plain(state: Any) -> Any:
    """Return arrays or shapes with the numbers of a random key in its place."""

    def numbers(x: Any) -> Any:
        if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        if isinstance(x, jax.Array):
            return jax.random.key_data(x)
        data = jax.eval_shape(jax.random.key_data, x)
        return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=x.sharding)

    return jax.tree.map(numbers, state)


def taken(state: Any) -> dict[Shard, np.ndarray]:
    """Return copies on the host of this process's distinct shards; `state` may then be donated."""
    found = {}
    for path, leaf in jax.tree.flatten_with_path(plain(state))[0]:
        for shard in leaf.addressable_shards:
            bounds = _bounds(shard.index, leaf.shape)
            key = Shard(jax.tree_util.keystr(path), bounds, str(leaf.dtype))
            if key not in found:  # on a CPU, the array of NumPy would be the device's own memory
                found[key] = np.array(jax.device_get(shard.data), copy=True)
    return dict(sorted(found.items(), key=lambda item: item[0]))


def write(place: Path, shards: dict[Shard, np.ndarray], record: dict[str, Any]) -> None:
    """Write a checkpoint, which appears as `place` when it is complete and on the disk.

    record: JSON that `read_index` returns. Raises OSError.
    """
    partial = place.with_name(place.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    starts, size = _starts(list(shards))
    with (partial / SHARDS).open("wb") as file:
        file.truncate(size)

        def put(shard: Shard) -> str:
            data = np.ascontiguousarray(shards[shard]).reshape(-1).view(np.uint8)
            at, left = starts[shard], memoryview(data)
            while left:
                done = os.pwrite(file.fileno(), left, at)
                at, left = at + done, left[done:]
            return hashlib.sha256(data).hexdigest()

        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            digests = list(pool.map(put, shards))
        os.fsync(file.fileno())
    index = {"shards": list(shards), "digests": digests, "record": record}
    index = parse_json(json.dumps(index), OWN, nan=True)  # as it will be read
    with (partial / INDEX).open("w") as file:
        json.dump({**index, "sha256": _digest(index)}, file)
        file.flush()
        os.fsync(file.fileno())
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)


def read_index(place: Path) -> tuple[list[Shard], dict[str, Any]] | None:
    """Return (the shards of the checkpoint at `place`, its record), or None where it is damaged."""
    try:
        index = load_json(place / INDEX, OWN, nan=True)
        digest = index.pop("sha256")
        if digest != _digest(index):
            return None
        shards = [
            Shard(name, tuple((int(a), int(b)) for a, b in bounds), str(dtype))
            for name, bounds, dtype in index["shards"]
        ]
        if (place / SHARDS).stat().st_size != _starts(shards)[1]:
            return None
        return shards, index["record"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None


def intact(place: Path) -> bool:
    """Return whether every byte of the checkpoint at `place` is as it was written."""
    try:
        index = load_json(place / INDEX, OWN, nan=True)
        views = _views(place, read_index(place)[0])
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(lambda view: hashlib.sha256(view).hexdigest(), views.values())
            return list(found) == index["digests"]
    except (OSError, ValueError, TypeError):
        return False


def load(place: Path, like: Any) -> Any:
    """Return the state of an intact checkpoint that has all shards of this process, as `like`."""
    shards, _ = read_index(place)
    views = _views(place, shards)

    def array(path: tuple, of: jax.ShapeDtypeStruct) -> jax.Array:
        name, dtype = jax.tree_util.keystr(path), str(of.dtype)

        def part(index: tuple[slice, ...]) -> np.ndarray:
            shard = Shard(name, _bounds(index, of.shape), dtype)
            # a copy: the file may go, and the device may write into what it was given
            return np.array(views[shard]).view(np.dtype(dtype)).reshape(shard.shape)

        return jax.make_array_from_callback(of.shape, of.sharding, part)

    stored = jax.tree_util.tree_map_with_path(array, plain(like))

    def typed(x: jax.Array, of: jax.ShapeDtypeStruct) -> jax.Array:
        if x.dtype == of.dtype:
            return x
        return jax.jit(jax.random.wrap_key_data, out_shardings=of.sharding)(x)

    return jax.tree.map(typed, stored, like)


def _views(place: Path, shards: list[Shard]) -> dict[Shard, np.ndarray]:
    starts, size = _starts(shards)
    whole = np.memmap(place / SHARDS, np.uint8, "r") if size else np.zeros(0, np.uint8)
    return {shard: whole[start : start + shard.size] for shard, start in starts.items()}


def _starts(shards: list[Shard]) -> tuple[dict[Shard, int], int]:
    """Return where each shard begins in the file, and the size of the file."""
    starts, at = {}, 0
    for shard in shards:
        starts[shard] = at
        at += shard.size
    return starts, at


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(each.indices(size)[:2] for each, size in zip(index, shape, strict=True))


def _digest(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
