"""A stage's network as its samplers call it: guided, with the text read once, whole or in tiles."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax.cascade.limits import wrong_tile
from cv3jax.cascade.parts import build_model, build_on
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size
from cv3jax.checkpoints.description import CascadeDescription, StageDescription
from cv3jax.diffusion.conditioning import make_cond, picture_sizes
from cv3jax.diffusion.denoiser import Rescale, guided, make_denoiser
from cv3jax.diffusion.schedule import ddpm_sigma
from cv3jax.diffusion.tiles import Tiles, blended, place, shared
from cv3jax.distributed.mesh import BATCH
from cv3jax.distributed.partitioning import context_problem
from cv3jax.kernels.attention import make_attend
from cv3jax.models.adapters import adapting
from cv3jax.models.layers import Attend
from cv3jax.models.layers import attend as xla_attention
from cv3jax.models.unet import UNet
from data_pipeline.io.errors import InputError


def stage_attend(stage: StageDescription, attention: str, mesh: Mesh) -> Attend:
    """Return a stage's attention by name, for the devices of `mesh`.

    Raises InputError where the devices or the stage's heads do not allow it.
    """
    model = build_model(UNet, stage.model)
    try:
        return make_attend(
            attention,
            mesh.devices.flat[0].platform,
            mesh,
            head_dim=model.head_dim,
            dtype=model.dtype,
        )
    except ValueError as e:
        raise InputError(str(e)) from e


@dataclasses.dataclass(frozen=True)
class SamplerOptions:
    """What a stage's sampler is compiled for.

    A guidance-conditioned (distilled) stage takes the guidance weight w as an input; others are
    guided by it. `unguided` halves their work where w is 1. `text_kv_cache` computes the text's
    keys and values once and not at every step. `steps` are those of a whole schedule: a strength
    below 1 takes its share of them.
    """

    steps: int
    unguided: bool = False
    eta: float = 0.0
    form: str = "released"
    text_kv_cache: bool = True
    tile: int = 0  # this and the next two: see `SamplerSettings`
    strength: float = 1.0
    copies: bool = False
    mesh: Mesh | None = None
    attend: Attend = xla_attention


def sampler_options(
    chosen: SamplerSettings, unguided: bool, mesh: Mesh | None, attend: Attend
) -> SamplerOptions:
    """Return the options of a stage's sampler for settings without None."""
    return SamplerOptions(
        steps=chosen.steps,
        unguided=unguided,
        eta=chosen.eta,
        form=chosen.form,
        text_kv_cache=chosen.text_kv_cache,
        tile=chosen.tile,
        strength=chosen.strength,
        copies=chosen.copies,
        mesh=mesh,
        attend=attend,
    )


def check_context(
    mesh: Mesh | None, description: CascadeDescription, name: str, rows: int, tile: int = 0
) -> None:
    """Raise InputError where the context axis of a mesh cannot split latents of so many rows.

    tile: in pixels per side, where they are predicted in tiles.
    """
    stage = description.stages[name]
    stages, tall = len(stage.model["channel_mult"]), tile // stage.factor
    rows = min(rows, tall) if tall else rows
    if mesh is not None and (problem := context_problem(mesh, rows, stages)):
        raise InputError(f"{name} stage: mesh {problem}")


class Network(NamedTuple):
    """What samples with a stage's network."""

    # (params, text [B, L, C]) → the text as the network reads it, sharded as `text_sharding`: its
    # keys and values, or without `text_kv_cache` the text itself
    read_text: Callable
    text_sharding: NamedSharding | None
    predictor: Callable  # (params, the text so read, latents [B, h, w, z], w) → `Predict`


def _applied(model: UNet, params: Any, *given: Any) -> jax.Array:
    """Return what the model predicts, with the adapters that may be beside its kernels."""
    with adapting():
        return model.apply({"params": params}, *given)


def stage_network(stage: StageDescription, options: SamplerOptions) -> Network:
    """Return a stage's network as its samplers call it."""
    model = build_on(options.mesh, UNet, stage.model, attend=options.attend)
    sigma = jnp.asarray(ddpm_sigma(stage.zero_snr))
    plain = make_denoiser(functools.partial(_applied, model), sigma, stage.prediction)
    share = stage.guidance_rescale
    rescale = Rescale(share, sigma, stage.prediction) if share else None

    def predictor(params, text, like, w):
        rows, *sides = like.shape[:3]
        whole = picture_sizes(rows, *(side * stage.factor for side in sides))
        weights = jnp.broadcast_to(w, (rows,))
        by_guidance = plain if options.unguided or model.w_dim else guided(plain, weights, rescale)

        def denoise(x, t, sizes):
            cond = make_cond(text, sizes, weights if model.w_dim else None, model.w_dim)
            return by_guidance(params, x, t, cond)

        if not options.tile or max(sides) * stage.factor <= options.tile:
            return lambda x, t: denoise(x, t, whole)
        placed = stage_tiles(stage, Size(*sides), options.tile)
        blend = shared if options.copies else blended

        def predict(x, t):
            return blend(
                lambda x, corners: denoise(x, t, tile_sizes(whole, corners, placed, stage.factor)),
                x,
                placed,
            )

        return predict

    if not options.text_kv_cache:
        return Network(lambda params, text: text, None, predictor)
    sharding = kv_sharding(options.mesh, model)
    return Network(jax.jit(model.text_kv, out_shardings=sharding), sharding, predictor)


def stage_tiles(stage: StageDescription, latent: Size, tile: int) -> Tiles:
    """Return the tiles, of `tile` pixels per side, of a stage's latents of that height and width.

    Neighbours overlap by a quarter. Raises InputError on tiles that the UNet cannot halve.
    """
    if problem := wrong_tile(stage, tile):
        raise InputError(problem)
    side = tile // stage.factor
    return place(*latent, side, side // 4)


def tile_sizes(whole: jax.Array, corners: jax.Array, tiles: Tiles, factor: int) -> jax.Array:
    """Return the sizes [B, 6] of a tile of each row, with corners [B, 2] in latent positions.

    whole: the sizes [B, 6] of the pictures. The original size of a tile is the whole picture's, its
    crop is where the tile begins, and its target size is the tile's own.
    """
    own = jnp.broadcast_to(factor * jnp.array(tiles.shape, jnp.int32), corners.shape)
    return jnp.concatenate([whole[:, :2], factor * corners, own], 1)


def kv_sharding(mesh: Mesh | None, model: UNet) -> NamedSharding | None:
    """Return the sharding of a text's keys and values [depth, B, L, N, D], or None without a mesh.

    Rows are sharded over data and fsdp, and heads over tensor, where it divides those of every
    attention.
    """
    if mesh is None:
        return None
    depths = (*model.depth, model.mid_depth)
    mults = (*model.channel_mult, model.channel_mult[-1])
    heads = [
        model.channels * mult // model.head_dim
        for mult, depth in zip(mults, depths, strict=True)
        if depth
    ]
    divide = all(count % mesh.shape["tensor"] == 0 for count in heads)
    return NamedSharding(mesh, P(None, BATCH, None, "tensor" if divide else None))
