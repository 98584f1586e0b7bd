"""Passes over all tiles of a picture: the moments of a norm, the next map, the attention.

Each pass is a loop whose body handles one tile, so its memory is that of a tile and of the maps
that it reads and writes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.cascade.vae_layers import Attention, Steps, Stretch, norms, scale_after
from cv3jax.cascade.vae_tile import (
    Context,
    Layer,
    NormSilu,
    Place,
    Tile,
    Window,
    evaluate,
    normalised,
    not_yet_counted,
    required,
)
from cv3jax.models.layers import attend

LOGITS = 2**26  # most logits of the attention at once: 256 MiB in float32


@dataclass(frozen=True)
class Grid:
    """The tiles of a picture, row by row. picture and tile: (height, width) in latent positions."""

    picture: tuple[int, int]
    tile: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Return the number of rows and of columns of tiles."""
        rows, columns = (-(-side // tile) for side, tile in zip(*self._sides, strict=True))
        return rows, columns

    @property
    def _sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return self.picture, self.tile

    def place(self, index: Any) -> Place:
        """Return where tile `index` is."""
        fresh = tuple(
            number * tile
            for number, tile in zip(divmod(index, self.shape[1]), self.tile, strict=True)
        )
        corner = tuple(
            jnp.minimum(at, side - tile) for at, side, tile in zip(fresh, *self._sides, strict=True)
        )
        return Place(corner, fresh, self.picture)

    def core(self, scale: int) -> Window:
        """Return the window of a tile without a halo."""
        return Window(scale, 0, tuple(side * scale for side in self.tile))

    def each(self, body: Callable[[Place, Any], Any], start: Any) -> Any:
        """Return the result of body(place, what the body returned before), tile after tile."""
        count = self.shape[0] * self.shape[1]
        return jax.lax.fori_loop(0, count, lambda i, carry: body(self.place(i), carry), start)


class Map(NamedTuple):
    """The values [B, height + 2 margin, width + 2 margin, C] of a whole picture."""

    values: jax.Array
    scale: int  # positions per latent position
    margin: int

    def read(self, place: Place, window: Window) -> Tile:
        """Return a tile of the map; what is beyond the picture is zero."""
        y, x = (at * self.scale + window.offset + self.margin for at in place.corner)
        batch, *_, channels = self.values.shape
        values = jax.lax.dynamic_slice(self.values, (0, y, x, 0), (batch, *window.size, channels))
        return Tile(values, window)

    def inner(self) -> jax.Array:
        """Return the values without the margin."""
        end = -self.margin or None
        return self.values[:, self.margin : end, self.margin : end]


def bordered(values: jax.Array, scale: int, margin: int) -> Map:
    """Return the map of `values` [B, height, width, C] with a margin of zeros."""
    around = (margin, margin)
    return Map(jnp.pad(values, ((0, 0), around, around, (0, 0))), scale, margin)


def zeros_after(before: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Return zeros that XLA cannot make before `before` is there.

    It would make those of all maps at the start of the program, and hold them all at once. (The
    margin of a map would not do as `before`: XLA knows that it is zero.)
    """
    zero = before[(0,) * before.ndim] > jnp.inf  # false, which XLA does not see
    return jnp.broadcast_to(zero.astype(dtype), shape)


def margin_for(step: Stretch | Attention | None, scale: int, grid: Grid) -> int:
    """Return the margin that a step needs around its input, of `scale`."""
    if not isinstance(step, Stretch):
        return 0
    window = required(step.layers, grid.core(step.scale))
    beyond = max(
        window.offset + side - tile * scale
        for side, tile in zip(window.size, grid.tile, strict=True)
    )
    return max(0, -window.offset, beyond)


@dataclass(frozen=True)
class Evaluator:
    """Applies the steps of an autoencoder to a picture, tile by tile."""

    params: Any
    grid: Grid
    dtype: Any

    def run(
        self, steps: Steps, values: jax.Array, scale: int, finish: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        """Return finish(the last step's output), for `values` [B, height, width, C].

        scale: of the input. `finish` is applied to tiles.
        """
        picture = bordered(values, scale, margin_for(steps[0], scale, self.grid))
        for step, after in zip(steps, [*steps[1:], None], strict=True):
            if isinstance(step, Attention):
                margin = margin_for(after, picture.scale, self.grid)
                picture = bordered(self.attended(step, picture), picture.scale, margin)
                continue
            margin = margin_for(after, step.scale, self.grid)
            kept = finish if after is None else lambda x: x
            picture = self.painted(step, picture, margin, kept)
        return picture.values

    def painted(
        self, step: Stretch, source: Map, margin: int, finish: Callable[[jax.Array], jax.Array]
    ) -> Map:
        """Return the map after the layers of `step`, with a margin."""
        moments: dict = {}
        for norm, before in norms(step.layers):
            moments[norm.path] = self.moments(norm, before, source, moments)

        def made(place: Place) -> jax.Array:
            return finish(self._core(step.layers, source, place, moments).values)

        like = jax.eval_shape(lambda: made(self.grid.place(0)))
        sides = tuple(side * step.scale + 2 * margin for side in self.grid.picture)

        def body(place: Place, out: jax.Array) -> jax.Array:
            y, x = (at * step.scale + margin for at in place.corner)
            return jax.lax.dynamic_update_slice(out, made(place), (0, y, x, 0))

        out = zeros_after(source.inner(), (like.shape[0], *sides, like.shape[-1]), like.dtype)
        return Map(self.grid.each(body, out), step.scale, margin)

    def _core(self, layers: tuple[Layer, ...], source: Map, place: Place, moments: dict) -> Tile:
        core = self.grid.core(scale_after(layers, source.scale))
        tile = source.read(place, required(layers, core))
        return evaluate(layers, tile, Context(self.params, moments, place, self.dtype)).cut(core)

    def moments(
        self, norm: NormSilu | Attention, before: tuple[Layer, ...], source: Map, known: dict
    ) -> tuple[jax.Array, jax.Array]:
        """Return (mean, variance) [B, groups] of the picture at a norm, in float32.

        before: the layers from `source` to the norm, whose own moments are `known`. Each tile gives
        its count, mean and sum of squares about that mean. They are merged by the formula of Chan,
        Golub and LeVeque, which loses no small variance beside a large mean.
        """
        batch = source.values.shape[0]

        def body(place: Place, so_far: tuple) -> tuple:
            count, mean, squares = so_far
            tile = self._core(before, source, place, known)
            height, width, channels = tile.values.shape[1:]
            mask = not_yet_counted(place, tile.window)[..., None]
            x = tile.values.astype(jnp.float32)
            x = x.reshape(batch, height, width, norm.groups, channels // norm.groups)
            new = mask.sum(dtype=jnp.float32) * (channels // norm.groups)
            axes = (1, 2, 4)
            new_mean = jnp.where(mask, x, 0).sum(axes) / new
            off = x - new_mean[:, None, None, :, None]
            total, step = count + new, new_mean - mean
            squares += jnp.where(mask, off * off, 0).sum(axes) + step * step * (count * new / total)
            return total, mean + step * (new / total), squares

        zeros = jnp.zeros((batch, norm.groups), jnp.float32)
        count, mean, squares = self.grid.each(body, (jnp.float32(0), zeros, zeros))
        return mean, squares / count

    def attended(self, step: Attention, source: Map) -> jax.Array:
        """Return x + attention [B, height, width, C] of all positions over all others.

        The queries come in chunks, so that no more than LOGITS logits exist at once.
        """
        norm = Attention((*step.path, "norm"), step.groups)
        moments = {norm.path: self.moments(norm, (), source, {})} if step.groups else {}
        context = Context(self.params, moments, self.grid.place(0), self.dtype)
        shape = source.inner().shape
        batch, count, channels = shape[0], int(np.prod(shape[1:3])), shape[-1]
        flat = source.inner().reshape(batch, count, channels)

        def dense(name: str, x: jax.Array) -> jax.Array:
            leaf = context.leaf((*step.path, name))
            return x @ leaf["kernel"].astype(self.dtype) + leaf["bias"].astype(self.dtype)

        def normed(x: jax.Array) -> jax.Array:
            return normalised(x, norm, context) if step.groups else x.astype(self.dtype)

        k, v = (dense(name, normed(flat))[:, :, None] for name in "kv")
        chunk = max(1, min(count, LOGITS // (batch * count)))

        def body(i: jax.Array, out: jax.Array) -> jax.Array:
            at = jnp.minimum(i * chunk, count - chunk)
            x = jax.lax.dynamic_slice(flat, (0, at, 0), (batch, chunk, channels))
            h = attend(dense("q", normed(x))[:, :, None], k, v)[:, :, 0]
            return jax.lax.dynamic_update_slice(out, x + dense("out", h), (0, at, 0))

        out = jax.lax.fori_loop(0, -(-count // chunk), body, zeros_after(k, flat.shape, self.dtype))
        return out.reshape(shape)
