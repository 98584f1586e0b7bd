"""The autoencoder in bounded memory: exact, tile by tile, with the functions of `coders`.

The result is that of the whole picture at once, to the rounding of float32: norms have the moments
of the whole picture, tiles have halos as wide as the convolutions reach, and the attention is over
all positions. What is held is two feature maps of at most half the picture's resolution and some
tiles, in place of several maps at the full resolution. The price is time: the maps of the full
resolution are computed again for each norm there.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cv3jax.cascade.stage_sampler import images_sharding
from cv3jax.cascade.vae_layers import decoder_steps, default_bound, encoder_steps, merged
from cv3jax.cascade.vae_passes import Evaluator, Grid
from cv3jax.diffusion.pixels import to_uint8
from cv3jax.distributed.backend import announced
from cv3jax.distributed.mesh import BATCH
from cv3jax.models.vae import Autoencoder, clamp_logvar, posterior_sample
from data_pipeline.io.errors import InputError


def check_tile(vae: Autoencoder, tile: int) -> None:
    """Raise InputError unless `tile`, in pixels per side, is whole latent positions."""
    if tile < vae.factor or tile % vae.factor:
        raise InputError(
            f"tile {tile}: a tile of the autoencoder must be a multiple of {vae.factor} pixels"
        )


def _grid(vae: Autoencoder, tile: int, picture: tuple[int, int]) -> Grid:
    height, width = picture
    check_tile(vae, tile)
    return Grid(picture, (min(tile // vae.factor, height), min(tile // vae.factor, width)))


def _bound(vae: Autoencoder, keep: int | None, picture: tuple[int, int], batch: int) -> float:
    if keep is None:
        return default_bound(vae)
    return keep / (batch * picture[0] * picture[1] * jnp.dtype(vae.dtype).itemsize)


def decode_tiled(
    vae: Autoencoder,
    params: Any,
    latents: jax.Array,
    tile: int,
    *,
    keep: int | None = None,
    finish: Callable[[jax.Array], jax.Array] = lambda pixels: pixels,
) -> jax.Array:
    """Return finish(`vae.decode` of unscaled latents [B, h, w, z]): float32 pixels [B, H, W, 3].

    tile: pixels per side, a multiple of the factor; where one tile covers the picture, `vae.decode`
    itself runs. keep: the largest feature map to keep, in bytes; by default `default_bound` says.
    finish: a function of single pixels, applied to tiles.

    Raises InputError where the tile is no multiple.
    """
    picture = latents.shape[1:3]
    grid = _grid(vae, tile, picture)
    if grid.shape == (1, 1):
        return finish(vae.apply({"params": params}, latents, method="decode"))
    steps = merged(decoder_steps(vae), _bound(vae, keep, picture, len(latents)))
    evaluator = Evaluator(params, grid, vae.dtype)
    return evaluator.run(steps, latents, 1, lambda x: finish(x.astype(jnp.float32)))


def encode_tiled(
    vae: Autoencoder, params: Any, pixels: jax.Array, tile: int, *, keep: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return `vae.encode` of pixels [B, H, W, 3]: (mean, log-variance), each [B, h, w, z].

    tile, keep: as for `decode_tiled`.

    Raises InputError where the tile, or a side of the picture, is no multiple of the factor.
    """
    height, width = pixels.shape[1:3]
    if height % vae.factor or width % vae.factor:
        raise InputError(
            f"pictures of {height}×{width}: both sides must be multiples of {vae.factor} pixels"
        )
    picture = (height // vae.factor, width // vae.factor)
    grid = _grid(vae, tile, picture)
    if grid.shape == (1, 1):
        return vae.apply({"params": params}, pixels, method="encode")
    steps = merged(encoder_steps(vae), _bound(vae, keep, picture, len(pixels)))
    evaluator = Evaluator(params, grid, vae.dtype)
    moments = evaluator.run(steps, pixels, vae.factor, lambda x: x.astype(jnp.float32))
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, clamp_logvar(logvar)


def tiled_encoder(
    vae: Autoencoder, scale: float, mesh: Mesh | None, tile: int, keep: int | None = None
) -> Callable:
    """Return `coders.encoder` in tiles: a jitted (params, pixels [B, H, W, 3], noise) → samples.

    Rows of the batch, or those of each device of the mesh, are encoded one after the other. tile,
    keep: as for `decode_tiled`.

    Raises InputError where the tile is no multiple of the factor.
    """
    check_tile(vae, tile)

    def encode_one(params, pixels, noise):
        moments = encode_tiled(vae, params, pixels[None], tile, keep=keep)
        return scale * posterior_sample(*moments, noise[None])[0]

    return _by_rows(encode_one, mesh, "the encoder in tiles")


def tiled_decoder(
    vae: Autoencoder, scale: float, mesh: Mesh | None, tile: int, keep: int | None = None
) -> Callable:
    """Return `coders.decoder` in tiles: a jitted (params, scaled latents) → uint8 [B, H, W, 3].

    Rows of the batch, or those of each device of the mesh, are decoded one after the other. tile,
    keep: as for `decode_tiled`.

    Raises InputError where the tile is no multiple of the factor.
    """
    check_tile(vae, tile)

    def decode_one(params, latents):
        return decode_tiled(vae, params, latents[None] / scale, tile, keep=keep, finish=to_uint8)[0]

    return _by_rows(decode_one, mesh, "the decoder in tiles")


class Coders:
    """Which encoder and decoder a picture takes: `whole`, or one in tiles where it is larger."""

    def __init__(self, vae: Autoencoder, scale: float, mesh: Mesh | None):
        """Keep what the functions are made of; none is made yet."""
        self._made_of, self._factor = (vae, scale, mesh), vae.factor
        self._known: dict[tuple, Callable] = {}

    def encoder(self, whole: Callable, size: tuple[int, int], tile: int) -> Callable:
        """Return the encoder of pictures of `size`; tile 0 is always `whole`."""
        return self._choose(tiled_encoder, whole, size, tile)

    def decoder(self, whole: Callable, size: tuple[int, int], tile: int) -> Callable:
        """Return the decoder of pictures of `size`; tile 0 is always `whole`."""
        return self._choose(tiled_decoder, whole, size, tile)

    def _choose(
        self, make: Callable, whole: Callable, size: tuple[int, int], tile: int
    ) -> Callable:
        if not tile or max(size) <= tile:
            return whole
        if (make, tile) not in self._known:
            self._known[make, tile] = make(*self._made_of, tile)
        return self._known[make, tile]


def _by_rows(function: Callable, mesh: Mesh | None, what: str) -> Callable:
    """Return a jitted function of a batch that does a row at a time, on each device of a mesh."""

    def rows(params, *arrays):
        return jax.lax.map(lambda row: function(params, *row), arrays)

    def call(params, *arrays):
        if mesh is None:
            return rows(params, *arrays)
        specs = (P(), *[P(BATCH)] * len(arrays))
        shared = jax.shard_map(rows, mesh=mesh, in_specs=specs, out_specs=P(BATCH), check_vma=False)
        return shared(params, *arrays)

    return announced(jax.jit(call, out_shardings=images_sharding(mesh)), what)
