"""The layers of the autoencoder on one tile of a picture.

A tile is a window of the feature map and the values in it. Convolutions have no padding here: each
takes its rim off the tile, and a tile starts with a rim (the halo) that is wide enough. Values
outside of the picture are set to zero before every convolution, which is the padding that the whole
picture has.

Windows are static and tiles of one grid differ only in `Place`, so one compiled loop body does all
tiles. Everything is counted from the corner of the tile's core, in positions of the layer at hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cv3jax.models.layers import upsample_nearest
from cv3jax.models.vae import depth_to_space, space_to_depth

Path = tuple[str, ...]


class Window(NamedTuple):
    """The rows and columns of a tile at a layer's resolution.

    scale: positions per latent position. offset: of the first row and column, from the corner of
    the core; negative for a halo. size: (height, width).
    """

    scale: int
    offset: int
    size: tuple[int, int]


class Place(NamedTuple):
    """Where a tile is, in latent positions from the picture's top left corner.

    corner: (y, x) of its core. fresh: (y, x) from which on no tile before it has been. They differ
    in the last row and column of tiles, which overlap those before them where the side of the
    picture is no multiple of the tile's. picture: (height, width) of all latents.
    """

    corner: tuple[Any, Any]
    fresh: tuple[Any, Any]
    picture: tuple[int, int]


class Tile(NamedTuple):
    """Values [B, height, width, C] in a window."""

    values: jax.Array
    window: Window

    def cut(self, window: Window) -> "Tile":
        """Return the part of the tile in `window`, which lies within its own."""
        at, (height, width) = window.offset - self.window.offset, window.size
        return Tile(self.values[:, at : at + height, at : at + width], window)


class Context(NamedTuple):
    """What a layer needs beside the tile.

    moments: path of a norm → (mean, variance) of the whole picture, each [B, groups]. dtype: of the
    computation.
    """

    params: Any
    moments: Mapping[Path, tuple[jax.Array, jax.Array]]
    place: Place
    dtype: Any

    def leaf(self, path: Path) -> Any:
        """Return the parameters at `path` of the flax tree."""
        tree = self.params
        for name in path:
            tree = tree[name]
        return tree


def _grown(window: Window, start: int, end: int) -> Window:
    """Return the window with `start` more positions before it and `end` after it, on both axes."""
    sides = tuple(side + start + end for side in window.size)
    return Window(window.scale, window.offset - start, sides)


def _divided(window: Window, by: int) -> Window:
    """Return the smallest window at 1/by of the resolution that covers `window`."""
    first = window.offset // by
    sides = tuple(-(-(window.offset + side) // by) - first for side in window.size)
    return Window(window.scale // by, first, sides)


def _times(window: Window, by: int) -> Window:
    sides = tuple(side * by for side in window.size)
    return Window(window.scale * by, window.offset * by, sides)


def _inside(place: Place, window: Window, start: tuple[Any, Any], axis: int) -> jax.Array:
    at = place.corner[axis] * window.scale + window.offset + jnp.arange(window.size[axis])
    return (at >= start[axis] * window.scale) & (at < place.picture[axis] * window.scale)


def within_picture(place: Place, window: Window) -> jax.Array:
    """Return which positions [height, width, 1] of a window are inside of the picture."""
    rows, columns = (_inside(place, window, (0, 0), axis) for axis in (0, 1))
    return (rows[:, None] & columns)[..., None]


def not_yet_counted(place: Place, window: Window) -> jax.Array:
    """Return which positions [height, width, 1] of a core no tile before this one has had.

    Over all tiles, each position of the picture is in it exactly once.
    """
    rows, columns = (_inside(place, window, place.fresh, axis) for axis in (0, 1))
    return (rows[:, None] & columns)[..., None]


@dataclass(frozen=True)
class Conv:
    """A convolution of 1×1 or 3×3.

    Of stride 2 it pads right and bottom only, as the encoder does.
    """

    path: Path
    size: int = 3
    stride: int = 1

    def needs(self, window: Window) -> Window:
        """Return the window of the input from which the output's `window` is made."""
        if self.stride == 2:
            return _grown(_times(window, 2), 0, 1)
        return _grown(window, self.size // 2, self.size // 2)

    def __call__(self, tile: Tile, context: Context) -> Tile:
        """Return the convolved tile, smaller by the rim."""
        leaf, dtype = context.leaf(self.path), context.dtype
        x, window = tile.values.astype(dtype), tile.window
        if self.size > 1:
            x = jnp.where(within_picture(context.place, window), x, 0)
        y = jax.lax.conv_general_dilated(
            x,
            leaf["kernel"].astype(dtype),
            (self.stride, self.stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ) + leaf["bias"].astype(dtype)
        scale, rim = window.scale // self.stride, self.size // 2 if self.stride == 1 else 0
        offset = (window.offset + rim) // self.stride
        return Tile(y, Window(scale, offset, y.shape[1:3]))


@dataclass(frozen=True)
class NormSilu:
    """silu of the GroupNorm of the whole picture; without groups, silu alone."""

    path: Path
    groups: int

    def needs(self, window: Window) -> Window:
        """Return `window`: a norm works on single positions once the moments are known."""
        return window

    def __call__(self, tile: Tile, context: Context) -> Tile:
        """Return the tile, normalised."""
        x = normalised(tile.values, self, context) if self.groups else tile.values
        return Tile(jax.nn.silu(x.astype(context.dtype)), tile.window)


EPSILON = 1e-6  # of all norms of the autoencoder


def normalised(x: jax.Array, norm: Any, context: Context) -> jax.Array:
    """Return x [B, ..., C] with the moments of the picture taken out, as flax's GroupNorm does.

    norm: has a path and groups.
    """
    leaf, each = context.leaf(norm.path), x.shape[-1] // norm.groups
    mean, variance = (
        jnp.repeat(value, each, axis=-1).reshape(len(x), *[1] * (x.ndim - 2), x.shape[-1])
        for value in context.moments[norm.path]
    )
    y = (x.astype(jnp.float32) - mean) * (jax.lax.rsqrt(variance + EPSILON) * leaf["scale"])
    return (y + leaf["bias"]).astype(context.dtype)


@dataclass(frozen=True)
class Residual:
    """x + branch(x), where a 1×1 convolution at `skip` widens x if it is given."""

    branch: tuple[Any, ...]
    skip: Path | None

    def needs(self, window: Window) -> Window:
        """Return the window that the branch needs; it covers that of the sum."""
        return required(self.branch, window)

    def __call__(self, tile: Tile, context: Context) -> Tile:
        """Return the sum, smaller by the branch's rims."""
        added = evaluate(self.branch, tile, context)
        x = tile.cut(added.window)
        if self.skip is not None:
            x = Conv(self.skip, size=1)(x, context)
        return Tile(x.values + added.values, added.window)


@dataclass(frozen=True)
class Upsample:
    """Nearest neighbours, twice per side."""

    def needs(self, window: Window) -> Window:
        """Return the window whose doubling covers `window`."""
        return _divided(window, 2)

    def __call__(self, tile: Tile, context: Context) -> Tile:
        """Return the tile at twice the resolution."""
        del context
        return Tile(upsample_nearest(tile.values), _times(tile.window, 2))


@dataclass(frozen=True)
class ToDepth:
    """Squares of block×block positions become channels."""

    block: int

    def needs(self, window: Window) -> Window:
        """Return the window in pixels."""
        return _times(window, self.block)

    def __call__(self, tile: Tile, context: Context) -> Tile:
        """Return the tile at 1/block of the resolution."""
        del context
        window = _divided(tile.window, self.block)
        return Tile(space_to_depth(tile.values, self.block), window)


@dataclass(frozen=True)
class ToSpace:
    """Channels become squares of block×block positions."""

    block: int

    def needs(self, window: Window) -> Window:
        """Return the window whose enlargement covers `window`."""
        return _divided(window, self.block)

    def __call__(self, tile: Tile, context: Context) -> Tile:
        """Return the tile at `block` times the resolution."""
        del context
        return Tile(depth_to_space(tile.values, self.block), _times(tile.window, self.block))


Layer = Conv | NormSilu | Residual | Upsample | ToDepth | ToSpace


def required(layers: Sequence[Layer], window: Window) -> Window:
    """Return the window of the input from which the layers make at least `window`."""
    for layer in reversed(layers):
        window = layer.needs(window)
    return window


def evaluate(layers: Sequence[Layer], tile: Tile, context: Context) -> Tile:
    """Return the tile after these layers, in the window that is left of it."""
    for layer in layers:
        tile = layer(tile, context)
    return tile
