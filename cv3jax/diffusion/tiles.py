"""Predict x̂0 of a large latent in overlapping tiles, blended into one.

Sampling steps are linear in x̂0. So the tiles' predictions are blended at every step, and the
sampler keeps one state: the noise and the carried mean are those of the whole latent.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# (a tile of each row [B, h, w, C], their corners int32 [B, 2], top first) → x̂0 of the tiles
PredictTiles = Callable[[jax.Array, jax.Array], jax.Array]


class Tiles(NamedTuple):
    """Where the tiles of a latent are, and their weights, which sum to one at every position."""

    corners: np.ndarray  # int32 [N, 2], top and left of each, row after row
    weights: tuple[np.ndarray, np.ndarray]  # float32 [N, h] and [N, w]: a tile's is their product

    @property
    def count(self) -> int:
        """The number of tiles."""
        return len(self.corners)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of each tile."""
        return self.weights[0].shape[1], self.weights[1].shape[1]


def place(height: int, width: int, tile: int, overlap: int) -> Tiles:
    """Return tiles of at most `tile` × `tile` that cover height × width.

    They are spread evenly. Neighbours share at least `overlap` positions, over which their weights
    change smoothly. A side that is not larger than `tile` has one tile, as long as the side.

    Raises ValueError where the overlap is not in 0..tile - 1.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"tiles of {tile} must overlap by 0..{tile - 1} positions, not {overlap}")
    (tops, down), (lefts, across) = (_axis(side, tile, overlap) for side in (height, width))
    corners = np.array([(top, left) for top in tops for left in lefts], np.int32)
    weights = np.repeat(down, len(lefts), 0), np.tile(across, (len(tops), 1))
    return Tiles(corners, weights)


def _axis(side: int, tile: int, overlap: int) -> tuple[list[int], np.ndarray]:
    """Return (the starts of the tiles along an axis, their weights float32 [n, tile])."""
    tile = min(tile, side)
    count = 1 if side == tile else math.ceil((side - overlap) / (tile - overlap))
    starts = [round(i * (side - tile) / max(count - 1, 1)) for i in range(count)]
    window = np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
    total = np.zeros(side)
    for start in starts:
        total[start : start + tile] += window
    return starts, np.array([window / total[s : s + tile] for s in starts], np.float32)


def blended(predict: PredictTiles, x: jax.Array, tiles: Tiles) -> jax.Array:
    """Return x̂0 [B, H, W, C] of x, predicted one tile of every row after the other."""
    rows = len(x)

    def body(total: jax.Array, group: Tiles) -> tuple[jax.Array, None]:
        corners = jnp.broadcast_to(group.corners, (rows, 2))
        x0 = predict(_cut(x, corners, tiles.shape), corners)
        return _added(total, corners, _weights(group)[..., None] * x0), None

    return jax.lax.scan(body, jnp.zeros_like(x), _groups(tiles, 1))[0]


def shared(predict: PredictTiles, x: jax.Array, tiles: Tiles) -> jax.Array:
    """Return x̂0 [B, H, W, C] of x, whose rows are copies of one picture.

    Each row predicts another tile. Where the rows are on several devices, these share the work.
    """

    def body(total: jax.Array, group: Tiles) -> tuple[jax.Array, None]:
        x0 = predict(_cut(x, group.corners, tiles.shape), group.corners)
        return _added(total, group.corners, _weights(group)[..., None] * x0), None

    total = jax.lax.scan(body, jnp.zeros_like(x), _groups(tiles, len(x)))[0]
    return jnp.broadcast_to(total.sum(0, keepdims=True), x.shape)


def _groups(tiles: Tiles, count: int) -> Tiles:
    """Return the tiles as arrays [groups, count, ...]; those that fill the last weigh nothing."""
    groups = math.ceil(tiles.count / count)
    spare = groups * count - tiles.count

    def grouped(values: np.ndarray, fill: np.ndarray) -> jax.Array:
        filled = np.concatenate([values, np.repeat(fill[None], spare, 0)])
        return jnp.asarray(filled.reshape(groups, count, *values.shape[1:]))

    down, across = tiles.weights
    weights = (grouped(down, np.zeros_like(down[0])), grouped(across, across[0]))
    return Tiles(grouped(tiles.corners, tiles.corners[-1]), weights)


def _weights(group: Tiles) -> jax.Array:
    """Return the weights [K, h, w] of a group's tiles."""
    down, across = group.weights
    return down[:, :, None] * across[:, None, :]


def _cut(x: jax.Array, corners: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Return the tiles [B, h, w, C] of x [B, H, W, C] that begin at corners [B, 2]."""
    size = (*shape, x.shape[-1])
    return jax.vmap(lambda row, at: jax.lax.dynamic_slice(row, (*at, 0), size))(x, corners)


def _added(total: jax.Array, corners: jax.Array, parts: jax.Array) -> jax.Array:
    """Return total [B, H, W, C] with parts [B, h, w, C] added where corners [B, 2] say."""

    def add(row: jax.Array, at: jax.Array, part: jax.Array) -> jax.Array:
        before = jax.lax.dynamic_slice(row, (*at, 0), part.shape)
        return jax.lax.dynamic_update_slice(row, before + part, (*at, 0))

    return jax.vmap(add)(total, corners, parts)
